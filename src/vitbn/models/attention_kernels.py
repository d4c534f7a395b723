"""The two products of attention, as fast as they come in training and yet differentiable to any order.

torch's fused attention has no second derivative and no forward mode, and the merged product below has a backward pass
of its own. Both are therefore `torch.autograd.Function`s that take the fast way for the one backward pass of a
training step. Where more is asked (create_graph=True, torch.func, forward mode) the plain formula is differentiated.

Shape legend: B images, T tokens, Q query tokens, D = dim, H heads, K = dim_head, R = Q H.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, *, scale: float, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T scale) v: (B, H, Q, K) and twice (B, H, T, K) -> (B, H, Q, K)."""
    if _transformed(q, k, v):
        return F.dropout((q @ k.transpose(-1, -2) * scale).softmax(-1), dropout) @ v
    plain = torch.compiler.is_compiling() or _autocast_dtype(q) is not None
    if dropout == 0 and torch.is_grad_enabled() and not plain:
        return _FusedAttention.apply(q, k, v, scale)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)


def merged_product(
    x: Tensor, context: Tensor, w_qk: Tensor, b_qk: Tensor | None, w_vo: Tensor, *, dropout: float = 0.0
) -> Tensor:
    """softmax(x w_qk context^T) context w_vo: (B, Q, D) and (B, T, D) -> (B, Q, D).

    `w_qk` and `w_vo` are (H D, D), `b_qk` is (H D,) or None.
    """
    inputs = (x, context, w_qk, b_qk, w_vo)
    if dropout or not torch.is_grad_enabled() or _transformed(*inputs):
        return _merged(*inputs, dropout)[0]
    if torch.compiler.is_compiling() and context is x:
        context = x.view_as(x)  # one tensor for two arguments is more than it traces
    dtype = _autocast_dtype(x)
    if dtype is None:
        return _MergedProduct.apply(x, context, w_qk, b_qk, w_vo)
    # autocast chooses dtypes in a forward pass only: what both passes read is cast before them, and they go without
    same = context is x
    x = x.to(dtype)
    context = x if same else context.to(dtype)
    with torch.autocast(x.device.type, enabled=False):
        b_qk = None if b_qk is None else b_qk.to(dtype)
        return _MergedProduct.apply(x, context, w_qk.to(dtype), b_qk, w_vo.to(dtype))


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast makes of products of such tensors; None where it leaves them alone."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def _transformed(*tensors: Tensor | None) -> bool:
    """Whether torch.func or forward-mode differentiation works on any of the tensors."""
    if torch.compiler.is_compiling():
        return False
    return any(
        tensor is not None
        and (torch.func.debug_unwrap(tensor) is not tensor or forward_ad.unpack_dual(tensor).tangent is not None)
        for tensor in tensors
    )


def _gradients(function: Callable[..., Tensor], inputs: tuple[Tensor | None, ...], grad: Tensor) -> list[Tensor | None]:
    """Gradients of function(*inputs), themselves differentiable if they are asked to be."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [part if part is None else part.view_as(part) for part in inputs]  # two may be the same tensor
        out = function(*aliases)
    needed = [part for part in aliases if part is not None and part.requires_grad]
    gradients = iter(torch.autograd.grad(out, needed, grad, create_graph=again))
    return [next(gradients) if part is not None and part.requires_grad else None for part in aliases]


class _FusedAttention(torch.autograd.Function):
    """torch's fused attention, differentiated once by its own graph."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        ctx.inputs = q, k, v = tuple(part.detach().requires_grad_() for part in (q, k, v))
        with torch.enable_grad():
            ctx.out = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return ctx.out.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() or _transformed(grad):
            plain = lambda q, k, v: (q @ k.transpose(-1, -2) * ctx.scale).softmax(-1) @ v  # noqa: E731
            return *_gradients(plain, ctx.saved_tensors, grad), None
        return *torch.autograd.grad(ctx.out, ctx.inputs, grad, retain_graph=True), None


def _merged(
    x: Tensor, context: Tensor, w_qk: Tensor, b_qk: Tensor | None, w_vo: Tensor, dropout: float = 0.0
) -> tuple[Tensor, ...]:
    """(B, Q, D), and what its backward needs: (B, R, D), weights (B, T, R), (B, R, D)."""
    images, queries, dim = x.shape
    y = F.linear(x, w_qk, b_qk).view(images, -1, dim)
    weights = torch.bmm(context, y.transpose(1, 2)).softmax(1)  # keys by queries: the softmax runs along memory
    mixed = torch.bmm(F.dropout(weights, dropout).transpose(1, 2), context)
    return mixed.view(images, queries, -1) @ w_vo, y, weights, mixed


class _MergedProduct(torch.autograd.Function):
    """`_merged` with a backward of its own.

    Autograd's takes the same products one by one: it lays out and keeps more, and where memory is slower than
    arithmetic that costs a sixth of the attention.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, context: Tensor, w_qk: Tensor, b_qk: Tensor | None, w_vo: Tensor) -> Tensor:
        out, *kept = _merged(x, context, w_qk, b_qk, w_vo)
        ctx.save_for_backward(x, context, w_qk, b_qk, w_vo, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, context, w_qk, b_qk, w_vo, y, weights, mixed = ctx.saved_tensors
        if not torch.compiler.is_compiling() and (torch.is_grad_enabled() or _transformed(grad)):
            return tuple(_gradients(lambda *inputs: _merged(*inputs)[0], (x, context, w_qk, b_qk, w_vo), grad))
        dim = x.shape[-1]
        rows = grad.reshape(-1, dim)
        d_vo = (rows.t() @ mixed.view(len(rows), -1)).t()
        d_mixed = (rows @ w_vo.t()).view(mixed.shape)
        d_weights = torch.bmm(context, d_mixed.transpose(1, 2))
        d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, 1, weights.dtype)
        d_context = torch.bmm(weights, d_mixed).baddbmm_(d_scores, y)  # as values and as keys
        d_y = d_mixed.baddbmm_(d_scores.transpose(1, 2), context, beta=0).view(len(rows), -1)  # in d_mixed's memory
        d_qk = (x.reshape(-1, dim).t() @ d_y).t()
        d_b = None if b_qk is None else d_y.sum(0)
        return (d_y @ w_qk).view(x.shape), d_context, d_qk, d_b, d_vo
