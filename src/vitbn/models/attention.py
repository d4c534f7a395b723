"""Multi-head self-attention by two routes that compute the same function.

Shape legend: B images, T tokens, Q of them asking, D = dim, H heads, K = dim_head.

standard  q, k, v = u W_q, u W_k, u W_v; softmax(q k^T / sqrt K) v W_o
merged    softmax(u (W_q W_k^T) u^T / sqrt K) u (W_v W_o): the tokens themselves are keys and values,
          shared by all heads, so k and v are never materialised
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitbn.models.dropout import Dropout
from vitbn.models.merged_attention import MergedAttention, attend, mixed_precision
from vitbn.models.norms import make_norm

# W_qk (H D, D), its bias (H D,) or None, W_vo (H D, D), its bias (H, D) or None, output bias (D,) or None
Products = tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None]


def merged_is_cheaper(
    images: int, tokens: int, dim: int, dim_head: int, *, queries: int | None = None, products_ready: bool = False
) -> bool:
    """Whether the merged route needs fewer multiplications, per head and halved on both sides.

    `queries`: how many tokens ask, all by default. `products_ready`: the weight products are at hand (evaluation)
    and need not be paid for.
    """
    asking = tokens if queries is None else queries
    products = 0 if products_ready else dim * dim * dim_head
    merged = images * asking * dim * (dim + tokens) + products
    return merged < images * dim_head * (dim * (asking + tokens) + asking * tokens)


class Attention(nn.Module):
    """Self-attention: u (B, T, D) -> (B, Q, D), where the first Q tokens ask (all by default).

    The output projection is the identity for one head of K = D. `route` is "auto" (the cost rule decides),
    "standard" or "merged". Norms on q and k leave only "standard".
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        dim_head: int,
        dropout: float = 0.0,
        qkv_bias: bool = False,
        qk_norm: str = "none",
        norm_eps: float = 1e-5,
        route: str = "auto",
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.dim_head, self.scale = dim, heads, dim_head, dim_head**-0.5
        self.route = route
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=qkv_bias)
        self.q_norm = make_norm(qk_norm, dim_head, norm_eps)
        self.k_norm = make_norm(qk_norm, dim_head, norm_eps)
        self.weights_dropout = Dropout(dropout)
        project = heads > 1 or dim_head != dim
        self.to_out = nn.Linear(heads * dim_head, dim) if project else nn.Identity()
        self.out_dropout = Dropout(dropout) if project else nn.Identity()
        self._cached: tuple[tuple, Products] | None = None
        self._frozen: Products | None = None

    def forward(self, u: Tensor, queries: int | None = None) -> Tensor:
        route = self.merged if self.takes_merged(u, queries) else self.standard
        return self.out_dropout(route(u, queries))

    def takes_merged(self, u: Tensor, queries: int | None = None) -> bool:
        """The route this input takes."""
        if not isinstance(self.q_norm, nn.Identity) or self.route == "standard":
            return False
        ready = not self.training and not torch.is_grad_enabled()
        return self.route == "merged" or merged_is_cheaper(
            u.shape[0], u.shape[1], self.dim, self.dim_head, queries=queries, products_ready=ready
        )

    def standard(self, u: Tensor, queries: int | None = None) -> Tensor:
        """The usual formulation, before the output dropout."""
        q, k, v = self._heads(u, queries)
        if self.weights_dropout.active:
            weights = self._softmax(q, k)
            mixed = (weights * self.weights_dropout.mask(weights.shape, weights)) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.to_out(mixed.transpose(1, 2).flatten(2))  # B T (H K)

    def weights(self, u: Tensor, queries: int | None = None) -> Tensor:
        """softmax(q k^T / sqrt K) of the function that `forward` computes, (B, H, Q, T); neither route keeps it."""
        if self._frozen is None:
            q, k, _ = self._heads(u, queries)
            return self._softmax(q, k)
        w_qk, b_qk, *_ = self._frozen
        y = F.linear(u[:, :queries], w_qk, b_qk).unflatten(-1, (self.heads, self.dim)).transpose(1, 2)
        return (y @ u[:, None].transpose(-1, -2)).softmax(-1)

    def _softmax(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.transpose(-1, -2) * self.scale).softmax(-1)

    def _heads(self, u: Tensor, queries: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, H, Q, K), k and v (B, H, T, K), normed."""
        q, k, v = (x.unflatten(-1, (self.heads, self.dim_head)).transpose(1, 2) for x in self._qkv(u, queries))
        return self.q_norm(q), self.k_norm(k), v

    def _qkv(self, u: Tensor, queries: int | None) -> tuple[Tensor, ...]:
        """q (B, Q, H K) of the tokens that ask, k and v (B, T, H K) of all."""
        if queries is None:
            return self.to_qkv(u).chunk(3, dim=-1)
        inner, bias = self.heads * self.dim_head, self.to_qkv.bias
        w_q, w_kv = self.to_qkv.weight.split((inner, 2 * inner))
        b_q, b_kv = (None, None) if bias is None else bias.split((inner, 2 * inner))
        return F.linear(u[:, :queries], w_q, b_q), *F.linear(u, w_kv, b_kv).chunk(2, dim=-1)

    def merged(self, u: Tensor, queries: int | None = None) -> Tensor:
        """The same function through the weight products, before the output dropout."""
        rows = u[:, :queries].shape[1]
        w_qk, b_qk, w_vo, b_vo, b_out = self._products()
        if self.weights_dropout.active:
            out = self._thinned(u, rows, w_qk, b_qk, w_vo, b_vo)
        elif torch.is_grad_enabled() and not mixed_precision(u.device.type):
            out = MergedAttention.apply(u, w_qk, b_qk, w_vo, rows)
        else:
            out = attend(u, w_qk, b_qk, w_vo, rows)[0]
        return out if b_out is None else out + b_out

    def _thinned(
        self, u: Tensor, rows: int, w_qk: Tensor, b_qk: Tensor | None, w_vo: Tensor, b_vo: Tensor | None
    ) -> Tensor:
        """With dropout on the weights, of which a value bias sees the row sums."""
        images, tokens, dim = u.shape
        y = F.linear(u[:, :rows], w_qk, b_qk).view(images, -1, dim)
        mask = self.weights_dropout.mask(torch.Size((images, self.heads, rows, tokens)), u)
        weights = torch.bmm(y, u.transpose(1, 2)).softmax(-1)
        weights = weights * mask.transpose(1, 2).reshape(weights.shape)
        out = torch.bmm(weights, u).view(images, rows, -1) @ w_vo
        return out if b_vo is None else out + weights.sum(-1).view(images, rows, self.heads) @ b_vo

    def train(self, mode: bool = True) -> "Attention":
        self._cached = None
        return super().train(mode)

    def _products(self) -> Products:
        """Weight products, recomputed every training step so that gradients reach their factors."""
        if self._frozen is not None:
            return self._frozen
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._multiply()
        state = tuple((p.data_ptr(), p._version) for p in self.parameters())
        if self._cached is None or self._cached[0] != state:
            self._cached = (state, self._multiply())
        return self._cached[1]

    @torch.no_grad()
    def freeze(self, u: Tensor, queries: int | None = None) -> None:
        """For good, the route that this input takes in evaluation; merged, constant products replace their factors."""
        self.route = "merged" if self.takes_merged(u, queries) else "standard"
        if self.route == "merged":
            self._frozen = self._multiply()
            del self.to_qkv, self.to_out

    def _multiply(self) -> Products:
        shape = (3, self.heads, self.dim_head)
        w_q, w_k, w_v = self.to_qkv.weight.unflatten(0, shape)  # H K D each
        w_qk = torch.bmm(w_k.transpose(1, 2), w_q) * self.scale  # H D D: rows index the key side
        if isinstance(self.to_out, nn.Linear):
            w_o = self.to_out.weight.view(self.dim, self.heads, self.dim_head).permute(1, 2, 0)  # H K D
            w_vo = torch.bmm(w_v.transpose(1, 2), w_o)
        else:
            w_o, w_vo = None, w_v.transpose(1, 2)
        b_qk: Tensor | None = None
        b_vo: Tensor | None = None
        b_out: Tensor | None = getattr(self.to_out, "bias", None)
        if self.to_qkv.bias is not None:  # a key bias shifts whole rows and cancels in the softmax
            b_q, _, b_v = self.to_qkv.bias.view(shape)
            b_qk = (torch.einsum("hk,hkd->hd", b_q, w_k) * self.scale).flatten()
            b_vo = b_v if w_o is None else torch.einsum("hk,hkd->hd", b_v, w_o)
            if not self.weights_dropout.active:  # rows that sum to 1 pass a value bias on as it is
                b_out, b_vo = b_vo.sum(0) if b_out is None else b_out + b_vo.sum(0), None
        return w_qk.flatten(0, 1), b_qk, w_vo.flatten(0, 1), b_vo, b_out
