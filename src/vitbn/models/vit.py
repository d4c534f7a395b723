"""The Vision Transformer and its three norm placements: one class, three tables.

Shape legend: B images, N patches, T = N + 1 tokens, D = dim.
"""

from typing import cast

import torch
from torch import Tensor, nn

from vitbn.models.attention import Attention
from vitbn.models.merged_attention import MergedAttention
from vitbn.models.placements import Placement, Pool, Slot, complete, named
from vitbn.models.pos_emb import Positions
from vitbn.norms.kinds import label
from vitbn.norms.table import make_norm, mixes_tokens


class FeedForward(nn.Module):
    """Linear -> [ffn_hidden] -> GELU -> [ffn_act] -> dropout -> Linear -> dropout: (B, T, D) -> (B, T, D)."""

    def __init__(self, dim: int, hidden: int, dropout: float, hidden_norm: nn.Module, act_norm: nn.Module) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.hidden_norm = hidden_norm
        self.act = nn.GELU()
        self.act_norm = act_norm
        self.drop1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop2 = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act_norm(self.act(self.hidden_norm(self.fc1(x))))
        return self.drop2(self.fc2(self.drop1(x)))


class Block(nn.Module):
    """Attention and feed-forward, each on a residual: (B, T, D) -> (B, T, D), or the first token's (B, 1, D) alone."""

    def __init__(self, attention: Attention, ffn: FeedForward, norms: dict[str, nn.Module]) -> None:
        super().__init__()
        self.attn_in = norms["attn_in"]
        self.attention = attention
        self.attn_out = norms["attn_out"]
        self.attn_post = norms["attn_post"]
        self.ffn_in = norms["ffn_in"]
        self.ffn = ffn
        self.ffn_out = norms["ffn_out"]
        self.ffn_post = norms["ffn_post"]

    def forward(self, x: Tensor, first_only: bool = False) -> Tensor:
        if first_only:
            return first_token(self, x)
        x = self.attn_post(x + self.attn_out(self.attention(self.attn_in(x))))
        return self.ffn_post(x + self.ffn_out(self.ffn(self.ffn_in(x))))


def first_token(block: Block, x: Tensor) -> Tensor:
    """`block(x)[:, :1]` without computing tokens that it does not depend on: (B, T, D) -> (B, 1, D).

    Keys and values are of all tokens. A norm that mixes tokens needs all of them; the others are left out as soon as
    no such norm is to come.
    """
    attention, ffn = block.attention, block.ffn

    def narrow(x: Tensor, *norms_to_come: nn.Module) -> Tensor:
        return x if any(map(mixes_tokens, norms_to_come)) else x[:, :1]

    u = block.attn_in(x)
    to_the_end = (ffn.hidden_norm, ffn.act_norm, block.ffn_out, block.ffn_post)
    queries = narrow(u, attention.q_norm, block.attn_out, block.attn_post, block.ffn_in, *to_the_end)
    attended = attention(u) if queries is u else attention(queries, u)
    x = block.attn_post(x[:, : queries.shape[1]] + block.attn_out(attended))
    hidden = narrow(ffn.hidden_norm(ffn.fc1(block.ffn_in(x))), ffn.act_norm, block.ffn_out, block.ffn_post)
    hidden = narrow(ffn.act_norm(ffn.act(hidden)), block.ffn_out, block.ffn_post)
    out = narrow(block.ffn_out(ffn.drop2(ffn.fc2(ffn.drop1(hidden)))), block.ffn_post)
    return block.ffn_post(x[:, : out.shape[1]] + out)[:, :1]


class Embedding(nn.Module):
    """Images (B, C, S, S) -> tokens (B, T, D): patches in row-major order, each flattened as (p1 p2 c)."""

    def __init__(
        self, *, side: int, patch: int, channels: int, dim: int, pos_emb: str, dropout: float,
        in_norm: nn.Module, out_norm: nn.Module,
    ) -> None:  # fmt: skip
        super().__init__()
        self.side = side
        self.patch = patch
        self.channels = channels
        self.grid = side // patch
        self.in_norm = in_norm
        self.out_norm = out_norm
        self.project = nn.Linear(channels * patch * patch, dim)
        self.cls = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = Positions(pos_emb, self.grid**2 + 1, dim)
        self.dropout = nn.Dropout(dropout)

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

    ViT (Dosovitskiy et al., 2021) at the article's size. `placement` names one of conf/norm/, or maps slots to
    kinds, `{"ffn_in": "none", "ffn_hidden": {"kind": "ghost_batch", "virtual": 50}}`; a slot left out keeps what the
    class has there. ValueError names any option that does not fit.
    """

    placement: Placement = named("vit")

    def __init__(
        self,
        *,
        image_size: int = 28,
        patch_size: int = 7,
        num_classes: int = 10,
        channels: int = 1,
        dim: int = 64,
        depth: int = 6,
        heads: int = 8,
        dim_head: int = 64,
        mlp_dim: int = 128,
        pool: str = "cls",
        dropout: float = 0.0,
        emb_dropout: float = 0.0,
        pos_emb: str = "learn",
        placement: Placement | str | None = None,
        qkv_bias: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        sizes = {"image_size": image_size, "patch_size": patch_size, "channels": channels, "dim": dim, "depth": depth,
                 "heads": heads, "dim_head": dim_head, "mlp_dim": mlp_dim, "num_classes": num_classes}  # fmt: skip
        if wrong := [f"{name} {size}" for name, size in sizes.items() if size < 1]:
            raise ValueError(f"{wrong[0]}: must be at least 1")
        if not norm_eps > 0:
            raise ValueError(f"norm_eps {norm_eps}: must be above 0")
        if image_size % patch_size:
            raise ValueError(f"patch_size {patch_size} does not divide image_size {image_size}")
        if pool not in set(Pool):
            raise ValueError(f"unknown pool {pool!r}; choose from {', '.join(Pool)}")
        kinds = named(placement) if isinstance(placement, str) else complete(placement or {}, self.placement)
        self.placement = {str(slot): kind for slot, kind in kinds.items()}
        self.pool = pool

        def norm(slot: Slot, width: int = dim) -> nn.Module:
            try:
                return make_norm(kinds[slot], width, norm_eps)
            except ValueError as error:
                raise ValueError(f"norm.{slot}={label(kinds[slot])}: {error}") from None

        def block() -> Block:
            # norms on q and k stand between the weights that merged attention multiplies
            attention_class = MergedAttention if kinds[Slot.qk] == "none" else Attention
            attention = attention_class(
                dim=dim, heads=heads, dim_head=dim_head, dropout=dropout,
                qkv_bias=qkv_bias, qk_norm=kinds[Slot.qk], norm_eps=norm_eps,
            )  # fmt: skip
            ffn = FeedForward(dim, mlp_dim, dropout, norm(Slot.ffn_hidden, mlp_dim), norm(Slot.ffn_act, mlp_dim))
            slots = (Slot.attn_in, Slot.attn_out, Slot.attn_post, Slot.ffn_in, Slot.ffn_out, Slot.ffn_post)
            return Block(attention, ffn, {slot: norm(slot) for slot in slots})

        self.embedding = Embedding(
            side=image_size, patch=patch_size, channels=channels, dim=dim, pos_emb=pos_emb, dropout=emb_dropout,
            in_norm=norm(Slot.embed_in, channels * patch_size**2), out_norm=norm(Slot.embed_out),
        )  # fmt: skip
        self.blocks = nn.ModuleList(block() for _ in range(depth))
        self.final_norm = norm(Slot.final)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embedding(images)
        *blocks, last = cast(list[Block], self.blocks)
        for block in blocks:
            x = block(x)
        reads_cls_only = self.pool == Pool.cls and not mixes_tokens(self.final_norm)
        return self.read(last(x, first_only=reads_cls_only))

    def read(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) of the last block's tokens (B, T, D)."""
        x = self.final_norm(x)
        return self.head(x[:, 0] if self.pool == Pool.cls else x.mean(dim=1))


class ViT(VisionTransformer):
    """LayerNorm in every pre-norm slot: the standard Vision Transformer."""

    placement = named("vit")


class ViTBNFFN(VisionTransformer):
    """BatchNorm between the feed-forward's first Linear and GELU; the feed-forward's pre-norm is gone."""

    placement = named("vitbnffn")


class ViTBN(VisionTransformer):
    """BatchNorm in place of every norm of ViTBNFFN."""

    placement = named("vitbn")
