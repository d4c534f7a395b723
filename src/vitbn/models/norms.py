"""The norms a slot can hold. Every constructor takes the feature count first, so kinds swap.

Shapes: (B, N, D) tokens; statistics "per feature" means one number for each of the D features.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitbn.models.placements import Kind


class TokenBatchNorm(nn.BatchNorm1d):
    """BatchNorm over batch and tokens, per feature: x (..., D). Momentum 0.1 (Ioffe & Szegedy, 2015).

    The same function as BatchNorm2d on (B, D, N, 1), without the two transposes.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.shape[-1] != self.num_features:
            raise ValueError(f"expected {self.num_features} features in the last dimension, got {x.shape[-1]}")


class ScalarBatchNorm(nn.Module):
    """BatchNorm with one mean and one variance for the whole (..., D) tensor; affine per feature."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
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
        return normed.view(x.shape) * self.weight + self.bias


def _none(num_features: int, eps: float) -> nn.Module:
    return nn.Identity()


KINDS: dict[Kind, Callable[..., nn.Module]] = {
    Kind.none: _none,
    Kind.layer: nn.LayerNorm,
    Kind.batch: TokenBatchNorm,
    Kind.batch_scalar: ScalarBatchNorm,
}


BATCH_NORMS = (TokenBatchNorm, ScalarBatchNorm)  # affine maps with constant coefficients in evaluation


def per_token(norm: nn.Module) -> bool:
    """Whether a token's result depends on that token alone: batch statistics mix tokens, running ones do not."""
    return not (norm.training and isinstance(norm, BATCH_NORMS))


def make_norm(kind: str, num_features: int, eps: float = 1e-5) -> nn.Module:
    """The norm of a kind over `num_features` features; ValueError lists the kinds."""
    if kind not in KINDS:
        raise ValueError(f"unknown norm {kind!r}; choose from {', '.join(KINDS)}")
    return KINDS[Kind(kind)](num_features, eps=eps)
