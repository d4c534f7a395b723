"""Multi-head self-attention.

Shape legend: B images, T tokens, Q query tokens, D = dim, H heads, K = dim_head.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from vitbn.models.attention_kernels import scaled_dot_product
from vitbn.norms.kinds import Kind
from vitbn.norms.table import make_norm


class Attention(nn.Module):
    """softmax(q k^T / sqrt K) v W_o with q, k, v = Linear(x): (B, T, D) -> (B, T, D).

    With `context`, the tokens x (B, Q, D) attend to those of the context (B, T, D) instead of to each other.
    The output projection is the identity for one head of K = D.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        dim_head: int,
        dropout: float = 0.0,
        qkv_bias: bool = False,
        qk_norm: Kind = "none",
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.heads = heads
        self.dim_head = dim_head
        self.scale = dim_head**-0.5
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=qkv_bias)
        self.q_norm = make_norm(qk_norm, dim_head, norm_eps)
        self.k_norm = make_norm(qk_norm, dim_head, norm_eps)
        self.weights_dropout = nn.Dropout(dropout)
        project = heads > 1 or dim_head != dim
        self.to_out = nn.Linear(heads * dim_head, dim) if project else nn.Identity()
        self.out_dropout = nn.Dropout(dropout) if project else nn.Identity()

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x, context)
        dropout = self.weights_dropout.p if self.training else 0.0
        mixed = scaled_dot_product(q, k, v, scale=self.scale, dropout=dropout)  # B H Q K
        return self.out_dropout(self.to_out(mixed.transpose(1, 2).flatten(2)))

    def weights(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """softmax(q k^T / sqrt K), (B, H, Q, T), which `forward` does not keep."""
        q, k, _ = self.qkv(x, context)
        return (q @ k.transpose(-1, -2) * self.scale).softmax(-1)

    def qkv(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, H, Q, K), k and v (B, H, T, K), normed."""
        if context is None:
            q, k, v = self.to_qkv(x).chunk(3, dim=-1)  # B T (H K) each
        else:
            inner, bias = self.heads * self.dim_head, self.to_qkv.bias
            w_q, w_kv = self.to_qkv.weight.split((inner, 2 * inner))
            b_q, b_kv = (None, None) if bias is None else bias.split((inner, 2 * inner))
            q, (k, v) = F.linear(x, w_q, b_q), F.linear(context, w_kv, b_kv).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, self.dim_head)).transpose(1, 2) for part in (q, k, v))
        return self.q_norm(q), self.k_norm(k), v
