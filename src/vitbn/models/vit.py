"""The Vision Transformer and its three norm placements: one class, three tables.

Shape legend: B images, N patches, T = N + 1 tokens, D = dim.
"""

import torch
from torch import Tensor, nn

from vitbn.models.attention import Attention
from vitbn.models.dropout import Dropout
from vitbn.models.norms import make_norm, per_token
from vitbn.models.placements import PLACEMENTS, Placement, Pool, Slot, complete
from vitbn.models.pos_emb import Positions


class FeedForward(nn.Module):
    """Linear -> [ffn_hidden] -> GELU -> [ffn_act] -> dropout -> Linear -> dropout: (B, T, D) -> (B, T, D).

    Asked for the first `rows` tokens only, it drops the others as soon as nothing depends on them any more.
    """

    def __init__(self, dim: int, hidden: int, dropout: float, hidden_norm: nn.Module, act_norm: nn.Module) -> None:
        super().__init__()
        self.fc1, self.hidden_norm, self.act = nn.Linear(dim, hidden), hidden_norm, nn.GELU()
        self.act_norm, self.drop1 = act_norm, Dropout(dropout)
        self.fc2, self.drop2 = nn.Linear(hidden, dim), Dropout(dropout)

    def forward(self, x: Tensor, rows: int | None = None) -> Tensor:
        x = self.hidden_norm(self.fc1(x))
        if per_token(self.act_norm):
            x = x[:, :rows]
        x = self.act_norm(self.act(x))[:, :rows]
        return self.drop2(self.fc2(self.drop1(x)))


class Block(nn.Module):
    """Attention and feed-forward, each on a residual: (B, T, D) -> (B, T, D), or (B, rows, D) if asked for."""

    def __init__(self, attention: Attention, ffn: FeedForward, norms: dict[str, nn.Module]) -> None:
        super().__init__()
        self.attn_in, self.attention, self.attn_out = norms["attn_in"], attention, norms["attn_out"]
        self.ffn_in, self.ffn, self.ffn_out = norms["ffn_in"], ffn, norms["ffn_out"]

    def forward(self, x: Tensor, rows: int | None = None) -> Tensor:
        ffn_rows = rows if per_token(self.ffn_out) else None
        ffn_norms = (self.ffn_in, self.ffn.hidden_norm, self.ffn.act_norm, self.ffn_out)
        asking = rows if all(map(per_token, (self.attention.q_norm, self.attn_out, *ffn_norms))) else None
        x = x[:, :asking] + self.attn_out(self.attention(self.attn_in(x), asking))
        return x[:, :rows] + self.ffn_out(self.ffn(self.ffn_in(x), ffn_rows))[:, :rows]


class Embedding(nn.Module):
    """Images (B, C, S, S) -> tokens (B, T, D): patches in row-major order, each flattened as (p1 p2 c)."""

    def __init__(
        self, *, side: int, patch: int, channels: int, dim: int, pos_emb: str, dropout: float,
        in_norm: nn.Module, out_norm: nn.Module,
    ) -> None:  # fmt: skip
        super().__init__()
        self.side, self.patch, self.channels, self.grid = side, patch, channels, side // patch
        self.in_norm, self.out_norm = in_norm, out_norm
        self.project = nn.Linear(channels * patch * patch, dim)
        self.cls = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = Positions(pos_emb, self.grid**2 + 1, dim)
        self.dropout = Dropout(dropout)

    def reset_parameters(self) -> None:
        """CLS starts from N(0, 1)."""
        nn.init.normal_(self.cls)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != (self.channels, self.side, self.side):
            expected = f"(B, {self.channels}, {self.side}, {self.side})"
            raise ValueError(f"expected images of shape {expected}, got {tuple(images.shape)}")
        patches = images.unflatten(3, (self.grid, self.patch)).unflatten(2, (self.grid, self.patch))
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # B N (p1 p2 c)
        x = self.out_norm(self.project(self.in_norm(patches)))
        return self.dropout(self.positions(torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1)))


class VisionTransformer(nn.Module):
    """Images (B, channels, image_size, image_size) in [0, 1] -> logits (B, num_classes).

    Pre-norm ViT (Dosovitskiy et al., 2021) whose norms are given by `placement`, a mapping slot -> kind.
    ValueError names any option that does not fit.
    """

    placement: Placement = PLACEMENTS["vit"]

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        num_classes: int,
        channels: int,
        dim: int,
        depth: int,
        heads: int,
        dim_head: int,
        mlp_dim: int,
        pool: str = "cls",
        dropout: float = 0.0,
        emb_dropout: float = 0.0,
        pos_emb: str = "learn",
        placement: Placement | None = None,
        qkv_bias: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patch_size {patch_size} does not divide image_size {image_size}")
        if pool not in set(Pool):
            raise ValueError(f"unknown pool {pool!r}; choose from {', '.join(Pool)}")
        kinds = complete(self.placement if placement is None else placement)
        self.placement = {str(slot): str(kind) for slot, kind in kinds.items()}
        self.pool, self.dropout = pool, dropout

        def norm(slot: Slot, width: int = dim) -> nn.Module:
            return make_norm(kinds[slot], width, norm_eps)

        def block() -> Block:
            attention = Attention(
                dim=dim, heads=heads, dim_head=dim_head, dropout=dropout,
                qkv_bias=qkv_bias, qk_norm=kinds[Slot.qk], norm_eps=norm_eps,
            )  # fmt: skip
            ffn = FeedForward(dim, mlp_dim, dropout, norm(Slot.ffn_hidden, mlp_dim), norm(Slot.ffn_act, mlp_dim))
            slots = (Slot.attn_in, Slot.attn_out, Slot.ffn_in, Slot.ffn_out)
            return Block(attention, ffn, {slot: norm(slot) for slot in slots})

        self.embedding = Embedding(
            side=image_size, patch=patch_size, channels=channels, dim=dim, pos_emb=pos_emb, dropout=emb_dropout,
            in_norm=norm(Slot.embed_in, channels * patch_size**2), out_norm=norm(Slot.embed_out),
        )  # fmt: skip
        self.blocks = nn.ModuleList(block() for _ in range(depth))
        self.final_norm = norm(Slot.final)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        *blocks, last = self.blocks
        x = self.embedding(images)
        for block in blocks:
            x = block(x)
        x = self.final_norm(last(x, self._rows_read()))
        return self.head(x[:, 0] if self.pool == "cls" else x.mean(dim=1))

    def _rows_read(self) -> int | None:
        """How many tokens of the last block anything reads; None for all. Dropout masks are drawn for all."""
        reads_cls = self.pool == "cls" and per_token(self.final_norm)
        return 1 if reads_cls and not (self.training and self.dropout > 0) else None


class ViT(VisionTransformer):
    """LayerNorm in every pre-norm slot: the standard Vision Transformer."""

    placement = PLACEMENTS["vit"]


class ViTBNFFN(VisionTransformer):
    """BatchNorm between the feed-forward's first Linear and GELU; the feed-forward's pre-norm is gone."""

    placement = PLACEMENTS["vitbnffn"]


class ViTBN(VisionTransformer):
    """BatchNorm in place of every norm of ViTBNFFN."""

    placement = PLACEMENTS["vitbn"]
