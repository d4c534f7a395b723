"""BatchNorm folded away: in evaluation it is an affine map with constant coefficients, so that
the Linear beside it can do its work.

Linear -> BatchNorm   W' = S W,  b' = S (b - mean) + beta         torch's own fusion; S = gamma / sqrt(var + eps)
BatchNorm -> Linear   W' = W S,  b' = b + W (beta - S mean)       makes a bias where there was none
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_weights

from vitbn.errors import InputError
from vitbn.models.norms import entry
from vitbn.models.placements import Placement, Slot
from vitbn.models.vit import Block, VisionTransformer

LIMIT = 1e-4  # a folded network whose logits lie further from the original's is refused
STAYS = "its mean and variance depend on every input"

Predict = Callable[[Tensor], Tensor]  # images -> logits


@dataclass(frozen=True)
class NormSite:
    """A norm, by its name in the network, and the Linear just before it (`after`) or just behind it.

    `qkv_index`: the norm follows only the queries (0), keys (1) or values (2) that the Linear makes.
    """

    slot: Slot
    norm: str
    linear: str
    after: bool
    qkv_index: int | None = None


@dataclass(frozen=True)
class FoldStep:
    """One norm of the plan: the Linear that it is folded into, or None and why it stays."""

    site: NormSite
    kind: str
    into: str | None
    how: str


@dataclass(frozen=True)
class Folding:
    """A network in evaluation mode without the norms that could be folded, and the plan that says which.

    `placement` and `qkv_bias` are the constructor's options that make a network of the same parameter names.
    """

    net: VisionTransformer
    plan: tuple[FoldStep, ...]

    @property
    def placement(self) -> Placement:
        return self.net.placement

    @property
    def qkv_bias(self) -> bool:
        return any(name.endswith("to_qkv.bias") for name, _ in self.net.named_parameters())


def norm_sites(net: VisionTransformer) -> Iterator[NormSite]:
    """Every slot of the network with the Linear beside it, in the order the data passes them."""
    yield NormSite(Slot.embed_in, "embedding.in_norm", "embedding.project", after=False)
    yield NormSite(Slot.embed_out, "embedding.out_norm", "embedding.project", after=True)
    for number, block in enumerate(cast(list[Block], net.blocks)):
        b, qkv = f"blocks.{number}", f"blocks.{number}.attention.to_qkv"
        yield NormSite(Slot.attn_in, f"{b}.attn_in", qkv, after=False)
        yield NormSite(Slot.qk, f"{b}.attention.q_norm", qkv, after=True, qkv_index=0)
        yield NormSite(Slot.qk, f"{b}.attention.k_norm", qkv, after=True, qkv_index=1)
        if isinstance(block.attention.to_out, nn.Linear):
            yield NormSite(Slot.attn_out, f"{b}.attn_out", f"{b}.attention.to_out", after=True)
        else:  # one head without projection; attention weights sum to 1, so an affine map may act on the values
            yield NormSite(Slot.attn_out, f"{b}.attn_out", qkv, after=True, qkv_index=2)
        yield NormSite(Slot.ffn_in, f"{b}.ffn_in", f"{b}.ffn.fc1", after=False)
        yield NormSite(Slot.ffn_hidden, f"{b}.ffn.hidden_norm", f"{b}.ffn.fc1", after=True)
        yield NormSite(Slot.ffn_act, f"{b}.ffn.act_norm", f"{b}.ffn.fc2", after=False)
        yield NormSite(Slot.ffn_out, f"{b}.ffn_out", f"{b}.ffn.fc2", after=True)
    yield NormSite(Slot.final, "final_norm", "head", after=False)  # an affine map commutes with the mean over tokens


@torch.no_grad()
def fold(net: VisionTransformer) -> Folding:
    """A copy of the network with every BatchNorm folded, computed in float64; `net` is left as it is."""
    folded = copy.deepcopy(net).double().eval()
    plan = []
    for site in norm_sites(folded):
        norm = folded.get_submodule(site.norm)
        if isinstance(norm, nn.Identity):
            continue
        kind = folded.placement[site.slot]
        table_entry = entry(norm)
        if table_entry is None or not table_entry.folds:
            plan.append(FoldStep(site, kind, None, STAYS))
            continue
        linear = cast(nn.Linear, folded.get_submodule(site.linear))
        new_bias = " and makes its bias" if linear.bias is None else ""
        if site.after:
            _fold_after(linear, norm, site.qkv_index)
        else:
            _fold_before(linear, norm)
        folded.set_submodule(site.norm, nn.Identity())
        plan.append(FoldStep(site, kind, site.linear, f"scales its {'outputs' if site.after else 'inputs'}{new_bias}"))
    folded_slots = {step.site.slot for step in plan if step.into}
    folded.placement = {slot: "none" if slot in folded_slots else kind for slot, kind in folded.placement.items()}
    return Folding(folded.to(next(net.parameters()).dtype), tuple(plan))


def _fold_after(linear: nn.Linear, norm: Any, qkv_index: int | None) -> None:
    """Linear -> norm, or norm over one third of the Linear's outputs."""
    bias = _with_bias(linear)
    width = linear.out_features if qkv_index is None else linear.out_features // 3
    first = (qkv_index or 0) * width
    rows = slice(first, first + width)
    mean, var, gamma, beta = _constants(norm, width)
    fused = fuse_linear_bn_weights(linear.weight[rows], bias[rows], mean, var, norm.eps, gamma, beta)
    linear.weight[rows], bias[rows] = fused


def _fold_before(linear: nn.Linear, norm: Any) -> None:
    """norm -> Linear."""
    mean, var, gamma, beta = _constants(norm, linear.in_features)
    scale = gamma / (var + norm.eps).sqrt()
    _with_bias(linear).add_(linear.weight @ (beta - scale * mean))
    linear.weight.mul_(scale)


def _constants(norm: Any, width: int) -> list[Tensor]:
    """Running mean and variance, weight and bias for `width` features: one number for all, or a head's for each."""
    parts = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    return [part.repeat(width // len(part)) for part in parts]


def _with_bias(linear: nn.Linear) -> Tensor:
    if linear.bias is None:
        linear.bias = nn.Parameter(linear.weight.new_zeros(linear.out_features))
    return linear.bias


@torch.inference_mode()
def largest_difference(a: Predict, b: Predict, batches: Iterable[Tensor]) -> float:
    """Largest absolute difference of two networks' logits over batches of images."""
    return torch.stack([(a(images) - b(images)).abs().max() for images in batches]).max().item()


def fold_proven(net: VisionTransformer, batches: Iterable[Tensor]) -> tuple[Folding, float]:
    """`fold` of a network in evaluation mode, and the largest logit difference over the images.

    InputError above LIMIT.
    """
    folding = fold(net)
    difference = largest_difference(net, folding.net, batches)
    if not difference <= LIMIT:  # NaN is refused too
        raise InputError(f"folding changes a logit by {difference:.3g}, more than {LIMIT:g}; use --no-fold")
    return folding, difference
