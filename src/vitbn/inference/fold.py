"""BatchNorm folded away: in evaluation it is an affine map with constant coefficients, so that
the Linear beside it can do its work.

Linear -> BatchNorm   W' = S W,  b' = S (b - mean) + beta         S = gamma / sqrt(var + eps)
BatchNorm -> Linear   W' = W S,  b' = b + W (beta - S mean)       makes a bias where there was none
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitbn.errors import InputError
from vitbn.models.attach import norm_at, put_norm
from vitbn.models.placements import Placement
from vitbn.models.sites import Site, sites
from vitbn.models.vit import VisionTransformer
from vitbn.norms.table import NORMS, entry

LIMIT = 1e-4  # a folded network whose logits lie further from the original's is refused
STAYS = "its mean and variance depend on every input"
ALONE = "no Linear stands beside it"

Predict = Callable[[Tensor], Tensor]  # images -> logits


@dataclass(frozen=True)
class FoldStep:
    """One norm of the plan: the Linear (or several) that it is folded into, or None and why it stays."""

    site: Site
    kind: str
    into: str | None
    how: str


@dataclass(frozen=True)
class Folding:
    """A network in evaluation mode without the norms that could be folded, and the plan that says which.

    `placement` and `qkv_bias` are the options that make a network of ours of the same parameter names.
    """

    net: nn.Module
    plan: tuple[FoldStep, ...]

    @property
    def placement(self) -> Placement:
        assert isinstance(self.net, VisionTransformer)
        return self.net.placement

    @property
    def qkv_bias(self) -> bool:
        return any(name.endswith("to_qkv.bias") for name, _ in self.net.named_parameters())


@torch.no_grad()
def fold(net: nn.Module) -> Folding:
    """A copy of the network with every BatchNorm folded, computed in float64; `net` is left as it is.

    InputError for a network that `models/sites.py` does not know.
    """
    folded = copy.deepcopy(net).double().eval()
    plan = []
    for site in sites(folded):
        norm: Any = norm_at(folded, site)
        if isinstance(norm, nn.Identity):
            continue
        known = entry(norm)
        kind = next((name for name, norm_entry in NORMS.items() if norm_entry is known), type(norm).__name__)
        affine = norm.as_affine() if known is not None and known.folds else None
        if affine is None:
            plan.append(FoldStep(site, kind, None, STAYS))
            continue
        if not site.linears:
            plan.append(FoldStep(site, kind, None, ALONE))
            continue
        linears = [folded.get_submodule(path) for path in site.linears]
        new_bias = (
            " and makes its bias" if any(getattr(linear, _bias_name(linear)) is None for linear in linears) else ""
        )
        scale, shift = affine
        for linear in linears:
            if site.after:
                _fold_after(linear, scale, shift, site.part)
            else:
                _fold_before(linear, scale, shift)
        put_norm(folded, site, nn.Identity())
        how = f"scales its {'outputs' if site.after else 'inputs'}{new_bias}"
        plan.append(FoldStep(site, kind, ", ".join(site.linears), how))
    if isinstance(folded, VisionTransformer):
        gone = {step.site.slot for step in plan if step.into}
        folded.placement = {slot: "none" if slot in gone else kind for slot, kind in folded.placement.items()}
    return Folding(folded.to(next(net.parameters()).dtype), tuple(plan))


def _fold_after(linear: Any, scale: Tensor, shift: Tensor, part: int | None) -> None:
    """Linear -> norm, or norm over one third of the Linear's outputs."""
    weight, bias = linear.weight.flatten(1), _with_bias(linear)
    width = len(weight) if part is None else len(weight) // 3
    rows = slice((part or 0) * width, (part or 0) * width + width)
    scale, shift = (values.repeat(width // len(values)) for values in (scale, shift))  # a head's for each
    weight[rows] *= scale[:, None]
    bias[rows] = bias[rows] * scale + shift


def _fold_before(linear: Any, scale: Tensor, shift: Tensor) -> None:
    """norm -> Linear; a Linear over several tokens side by side is given the same of each."""
    weight = linear.in_proj_weight if isinstance(linear, nn.MultiheadAttention) else linear.weight
    if isinstance(linear, nn.Conv2d):  # the inputs are the pixels of a patch, (p1 p2 c)
        channels, *sides = weight.shape[1:]
        scale, shift = (values.view(*sides, channels).permute(2, 0, 1) for values in (scale, shift))
    else:
        scale, shift = (values.repeat(weight.shape[1] // len(values)) for values in (scale, shift))
    _with_bias(linear).add_((weight * shift).flatten(1).sum(1))
    weight.mul_(scale)


def _bias_name(linear: Any) -> str:
    return "in_proj_bias" if isinstance(linear, nn.MultiheadAttention) else "bias"


def _with_bias(linear: Any) -> Tensor:
    name = _bias_name(linear)
    if getattr(linear, name) is None:
        weight = next(linear.parameters())
        setattr(linear, name, nn.Parameter(weight.new_zeros(len(weight))))
    return getattr(linear, name)


@torch.inference_mode()
def largest_difference(a: Predict, b: Predict, batches: Iterable[Tensor]) -> float:
    """Largest absolute difference of two networks' logits over batches of images."""
    return torch.stack([(a(images) - b(images)).abs().max() for images in batches]).max().item()


def fold_proven(net: nn.Module, batches: Iterable[Tensor]) -> tuple[Folding, float]:
    """`fold` of a network in evaluation mode, and the largest logit difference over the images.

    InputError above LIMIT.
    """
    folding = fold(net)
    difference = largest_difference(net, folding.net, batches)
    if not difference <= LIMIT:  # NaN is refused too
        raise InputError(f"folding changes a logit by {difference:.3g}, more than {LIMIT:g}; use --no-fold")
    return folding, difference
