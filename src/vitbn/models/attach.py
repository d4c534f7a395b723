"""A norm at a site: a module of the network in its place, or a child of a module that has no norm there.

The child is called norm_before, norm_after, norm_q or norm_k, and a hook of its module applies it, so that no other
module or weight gets a new name.

Shape legend: B images, N patches, T tokens, D features, H heads, K features of a head, p pixels of a patch's side.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from vitbn.models.sites import Site

PART = {"norm_q": 0, "norm_k": 1}  # the third of its module's outputs that such a child norms
CHILDREN = ("norm_before", "norm_after", *PART)


def norm_at(net: nn.Module, site: Site) -> nn.Module:
    """The norm that stands there, or an Identity."""
    place, _, name = site.path.rpartition(".")
    return getattr(net.get_submodule(place), name, None) or nn.Identity()


def put_norm(net: nn.Module, site: Site, norm: nn.Module) -> None:
    """Let `norm` (an Identity: none) stand there."""
    place, _, name = site.path.rpartition(".")
    parent = net.get_submodule(place)
    if name in CHILDREN and not hasattr(parent, name):
        if isinstance(norm, nn.Identity):
            return
        apply = partial(_apply, name=name, view=site.view, features=site.features)
        if name == "norm_before":
            parent.register_forward_pre_hook(partial(_before, apply=apply))
        else:
            parent.register_forward_hook(partial(_after, apply=apply))
    setattr(parent, name, norm)


def _before(module: nn.Module, args: tuple[Tensor, ...], *, apply: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    return (apply(module, args[0]), *args[1:])


def _after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor, *, apply: Callable[..., Tensor]) -> Tensor:
    return apply(module, output)


def _apply(module: nn.Module, x: Tensor, *, name: str, view: str | None, features: int) -> Tensor:
    """A module's tensor, normed by its child of that name."""
    norm = getattr(module, name)
    if isinstance(norm, nn.Identity):
        return x
    if name in PART:
        parts = list(x.chunk(3, dim=-1))
        parts[PART[name]] = VIEWS[view](norm, parts[PART[name]], features)
        return torch.cat(parts, dim=-1)
    return VIEWS[view](norm, x, features)


def _heads(norm: nn.Module, x: Tensor, features: int) -> Tensor:
    """x (B, T, H K), normed as (B, H, T, K)."""
    return norm(x.unflatten(-1, (-1, features)).transpose(1, 2)).transpose(1, 2).flatten(2)


def _channels(norm: nn.Module, x: Tensor, features: int) -> Tensor:
    """x (B, D, h, w), normed as (B, N, D)."""
    return norm(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])


def _patches(norm: nn.Module, x: Tensor, features: int) -> Tensor:
    """x (B, C, h p, w p), normed as (B, N, p p C), without the edge that the projection leaves out too."""
    channels = x.shape[1]
    p = round((features // channels) ** 0.5)
    h, w = x.shape[2] // p, x.shape[3] // p
    grid = x[:, :, : h * p, : w * p].unflatten(3, (w, p)).unflatten(2, (h, p)).permute(0, 2, 4, 3, 5, 1)  # B h w p p C
    normed = norm(grid.flatten(3).flatten(1, 2)).unflatten(2, (p, p, channels)).unflatten(1, (h, w))
    return normed.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


VIEWS: dict[str | None, Callable[[nn.Module, Tensor, int], Tensor]] = {
    None: lambda norm, x, features: norm(x), "heads": _heads, "channels": _channels, "patches": _patches,
}  # fmt: skip
