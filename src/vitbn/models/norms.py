"""The norms a slot can hold: one entry of `NORMS` each.

Shapes: (B, N, D) tokens; statistics "per feature" means one number for each of the D features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitbn.errors import InputError
from vitbn.models.placements import Kind


class Float32Norm(nn.Module):
    """A norm that stays in float32 when its network becomes bfloat16 or half, and takes inputs of either.

    Running statistics added up in eight bits of precision would stop a hundredth away from where they should be.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """What `to`, `half` and `cuda` go through: torch has no public way to leave a module out of them."""

        def at_least_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            halved = moved.is_floating_point() and moved.dtype.itemsize < 4
            return tensor.to(moved.device, torch.float32) if halved else moved

        return super()._apply(at_least_float32, recurse)


class TokenBatchNorm(Float32Norm, nn.BatchNorm1d):
    """BatchNorm over batch and tokens, per feature: x (..., D). Momentum 0.1 (Ioffe & Szegedy, 2015).

    The same function as BatchNorm2d on (B, D, N, 1), without the two transposes.
    """

    feature_dim = -1  # torch's own have their features in dimension 1

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.shape[-1] != self.num_features:
            raise ValueError(f"expected {self.num_features} features in the last dimension, got {x.shape[-1]}")


class ScalarBatchNorm(Float32Norm):
    """BatchNorm with one mean and one variance for the whole (..., D) tensor; affine per feature."""

    feature_dim = -1
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.track_running_stats = True  # false leaves the buffers alone in training mode, as in torch's own
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(1))
        self.register_buffer("running_var", torch.ones(1))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def reset_parameters(self) -> None:
        """Identity affine map, fresh statistics."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        self.running_mean.zero_()
        self.running_var.fill_(1)
        self.num_batches_tracked.zero_()

    def forward(self, x: Tensor) -> Tensor:
        tracked = self.training and self.track_running_stats
        if tracked:
            self.num_batches_tracked.add_(1)
        used = tracked or not self.training
        mean, var = (self.running_mean, self.running_var) if used else (None, None)
        flat = x.reshape(-1, 1)  # one channel: torch's own kernel keeps its numerics and its running update
        normed = F.batch_norm(flat, mean, var, None, None, self.training, self.momentum, self.eps)
        return (normed.view(x.shape) * self.weight + self.bias).to(x.dtype)


@dataclass(frozen=True)
class Norm:
    """A kind of norm. The defaults are safe for every norm; an entry says more only where it is true.

    make     module(num_features, eps=...); its class identifies the entry
    mixes    when a token's result depends on other tokens or images; until then, tokens that nothing reads are skipped
    folds    in evaluation it is the affine map of its running_mean, running_var, eps, weight and bias
    pools    over processes: "alone", each norms its own images; "moments", as `SyncBatchNorm` does; "refused"
    """

    make: Callable[..., nn.Module]
    mixes: Literal["never", "training", "always"] = "always"
    folds: bool = False
    pools: Literal["alone", "moments", "refused"] = "refused"


NORMS: dict[str, Norm] = {
    Kind.none: Norm(nn.Identity, mixes="never", pools="alone"),
    Kind.layer: Norm(nn.LayerNorm, mixes="never", pools="alone"),
    Kind.batch: Norm(TokenBatchNorm, mixes="training", folds=True, pools="moments"),
    Kind.batch_scalar: Norm(ScalarBatchNorm, mixes="training", folds=True, pools="moments"),
}


def make_norm(kind: str, num_features: int, eps: float = 1e-5) -> nn.Module:
    """The norm of a kind over `num_features` features; ValueError lists the kinds."""
    if kind not in NORMS:
        raise ValueError(f"unknown norm {kind!r}; choose from {', '.join(NORMS)}")
    return NORMS[kind].make(num_features, eps=eps)


def import_norm(kind: str) -> None:
    """Enter the class that `module.Class` names into `NORMS`, where its module has not done so itself.

    InputError says what cannot be imported. Pass no name that a stranger's file holds.
    """
    module, _, name = kind.rpartition(".")
    try:
        norm = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"norm {kind}: {error}; Python looks for modules in PYTHONPATH") from None
    NORMS.setdefault(kind, Norm(norm))


def entry(module: nn.Module) -> Norm | None:
    """The table's entry for a module, None for a class that it does not have."""
    return next((norm for norm in NORMS.values() if norm.make is type(module)), None)


def mixes_tokens(module: nn.Module) -> bool:
    """Whether a token's result now depends on other tokens or images; True for a class that the table does not have."""
    norm = entry(module)
    return norm is None or norm.mixes == "always" or (norm.mixes == "training" and module.training)
