"""Position embeddings: a learned table, or the fixed one-dimensional sin-cos table."""

import torch
from torch import Tensor, nn

from vitbn.models.placements import PosEmb


def sincos_1d(tokens: int, dim: int) -> Tensor:
    """Table (tokens, dim): row n is [sin(n w_1).. sin(n w_K), cos(n w_1)..], K = dim/2, w_k = 10000^(-k/K).

    Position 0 is the CLS token; k runs from 1 (Vaswani et al., 2017, with the article's frequencies).
    """
    if dim % 2:
        raise ValueError(f"pos_emb=pe1d needs an even dim, got {dim}")
    k = torch.arange(1, dim // 2 + 1, dtype=torch.float64)
    angle = torch.arange(tokens, dtype=torch.float64)[:, None] * 10000 ** (-k / (dim // 2))
    return torch.cat([angle.sin(), angle.cos()], dim=1).to(torch.get_default_dtype())


class Positions(nn.Module):
    """Adds a position to every token: x (B, N, D) -> (B, N, D)."""

    def __init__(self, kind: str, tokens: int, dim: int) -> None:
        super().__init__()
        if kind == PosEmb.learn:
            self.table = nn.Parameter(torch.randn(1, tokens, dim))
        elif kind == PosEmb.pe1d:
            self.register_buffer("table", sincos_1d(tokens, dim)[None], persistent=False)
        else:
            raise ValueError(f"unknown pos_emb {kind!r}; choose from {', '.join(PosEmb)}")

    def reset_parameters(self) -> None:
        """Learned positions start from N(0, 1)."""
        if isinstance(self.table, nn.Parameter):
            nn.init.normal_(self.table)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table
