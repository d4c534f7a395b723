"""The article's networks in small, with the names that its author's checkpoints have, and vit-pytorch's elder."""

import torch
from torch import nn

from tests.foreign import scattered


class Wrapped(nn.Module):
    """BatchNorm over images and tokens: the author's `Batch_Norm`."""

    def __init__(self, features):
        super().__init__()
        self.BN = nn.BatchNorm1d(features)

    def forward(self, x):
        return self.BN(x.transpose(1, 2)).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, norm, bias):
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm = norm(dim)
        self.patch_emb = nn.Linear(dim, 3 * heads * dim_head, bias=bias)
        alone = heads == 1 and dim_head == dim
        self.out_proj = nn.Identity() if alone else nn.Sequential(nn.Linear(heads * dim_head, dim), nn.Dropout(0.0))

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.patch_emb(self.norm(x)).chunk(3, -1)
        )
        return self.out_proj(((q @ k.mT * self.scale).softmax(-1) @ v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """`names`: what stands before, in the middle and behind, by the names of the author's files."""

    def __init__(self, dim, hidden, names):
        super().__init__()
        self.names = names
        kinds = {"LN": (nn.LayerNorm, dim), "norm2": (Wrapped, dim)}
        for name in names:
            make, width = kinds.get(name, (nn.BatchNorm1d if name.startswith("BN") else Wrapped, hidden))
            self.add_module(name, make(width))
        self.Lin1, self.Lin2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def put(self, name, x):
        if name not in self.names:
            return x
        norm = getattr(self, name)
        return norm(x.transpose(1, 2)).transpose(1, 2) if isinstance(norm, nn.BatchNorm1d) else norm(x)

    def forward(self, x):
        x = self.Lin1(self.put("LN", x))
        for name in ("norm", "norm1", "BN", "BN1"):
            x = self.put(name, x)
        return self.put("norm2", self.Lin2(self.put("BN2", nn.functional.gelu(x))))


class Article(nn.Module):
    """One of the author's networks, images of 28 pixels, patches of 7."""

    def __init__(
        self, *, norm=nn.LayerNorm, ffn=("norm",), bias=True, heads=2, dim_head=8, pool="cls", channels=1, stops=False
    ):
        super().__init__()
        dim, self.pool, self.stops = 16, pool, stops
        patch = channels * 49
        self.to_patch_embedding = nn.Sequential(nn.Identity(), norm(patch), nn.Linear(patch, dim), norm(dim))
        self.pos_embedding_random = nn.Parameter(torch.randn(1, 17, dim))
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.transformer = nn.Module()
        self.transformer.norm = norm(dim)
        self.transformer.layers = nn.ModuleList(
            nn.ModuleList([Attention(dim, heads, dim_head, norm, bias), FeedForward(dim, 24, ffn)]) for _ in range(2)
        )
        self.linear_head = nn.Linear(dim, 3)

    def forward(self, images):
        patches = images.unflatten(3, (4, 7)).unflatten(2, (4, 7)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), self.to_patch_embedding(patches)], 1)
        x = x + self.pos_embedding_random
        for attention, ffn in self.transformer.layers:
            x = attention(x) + x
            x = ffn(x) + x
            if self.stops:  # as in some of the author's files, whose `return` stands in the loop
                break
        x = self.transformer.norm(x)
        return self.linear_head(x.mean(1) if self.pool == "mean" else x[:, 0])


def article(**options):
    """In float64, with BatchNorm statistics of what it has seen."""
    torch.manual_seed(0)
    net = Article(**options).double().train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, options.get("channels", 1), 28, 28, dtype=torch.float64))
    return scattered(net)


def elder(state):
    """The names of vit-pytorch's ViT before version 1.2 for the weights of today's, without norms of patches."""
    renamed = {}
    for name, value in state.items():
        name = name.replace("to_patch_embedding.2", "to_patch_embedding.1").replace(".0.to_", ".0.fn.to_")
        name = name.replace("1.net.0.", "1.norm.").replace("1.net.1.", "1.fn.net.0.").replace("1.net.4.", "1.fn.net.3.")
        renamed[
            name.replace("transformer.norm", "mlp_head.0")
            .replace("mlp_head.w", "mlp_head.1.w")
            .replace("mlp_head.b", "mlp_head.1.b")
        ] = value
    return renamed
