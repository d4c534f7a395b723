"""The merged attention's core with a backward of its own.

Autograd's takes the same products one by one: it lays out and keeps more, and where memory is slower than arithmetic
that costs a sixth of the attention. Scores are kept keys by queries, so that the softmax runs along memory.

Shape legend: B images, T tokens, Q of them asking, D = dim, H heads, R = Q H.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def attend(u: Tensor, w_qk: Tensor, b_qk: Tensor | None, w_vo: Tensor, queries: int) -> tuple[Tensor, ...]:
    """softmax(u w_qk u^T) u w_vo: (B, Q, D); then what its backward needs: (B, R, D), weights (B, T, R), (B, R, D).

    `w_qk` and `w_vo` are (H D, D), `b_qk` is (H D,) or None; the first `queries` tokens of u (B, T, D) ask.
    """
    images, _, dim = u.shape
    y = torch.nn.functional.linear(u[:, :queries], w_qk, b_qk).view(images, -1, dim)
    weights = torch.bmm(u, y.transpose(1, 2)).softmax(1)
    mixed = torch.bmm(weights.transpose(1, 2), u)
    return mixed.view(images, queries, -1) @ w_vo, y, weights, mixed


def mixed_precision(device: str) -> bool:
    """Whether autocast chooses dtypes now, which it does in a forward pass and not in MergedAttention's backward."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


class MergedAttention(torch.autograd.Function):
    """`attend`'s first result, without its intermediate products in autograd's graph."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, w_qk: Tensor, b_qk: Tensor | None, w_vo: Tensor, queries: int) -> Tensor:
        out, *kept = attend(u, w_qk, b_qk, w_vo, queries)
        ctx.save_for_backward(u, w_qk, w_vo, *kept)
        ctx.queries = queries
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, w_qk, w_vo, y, weights, mixed = ctx.saved_tensors
        images, _, dim = u.shape
        rows = grad.reshape(-1, dim)
        d_vo = (rows.t() @ mixed.view(len(rows), -1)).t()
        d_mixed = (rows @ w_vo.t()).view(mixed.shape)
        d_weights = torch.bmm(u, d_mixed.transpose(1, 2))
        d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, 1, weights.dtype)
        d_u = torch.bmm(weights, d_mixed).baddbmm_(d_scores, y)  # as values and as keys
        d_y = torch.bmm(d_scores.transpose(1, 2), u, out=d_mixed).view(len(rows), -1)
        asking = u[:, : ctx.queries].reshape(-1, dim)
        d_qk, d_b = (asking.t() @ d_y).t(), d_y.sum(0) if ctx.needs_input_grad[2] else None
        d_u[:, : ctx.queries] += (d_y @ w_qk).view(images, -1, dim)
        return d_u, d_qk, d_b, d_vo, None
