"""Norms that need no other image: over one image's tokens, or of each number alone.

Shapes: (..., T, D), T tokens of D features.
"""

from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TokenRMSNorm(nn.RMSNorm):
    """x / sqrt(mean of x² over the features + eps) weight (Zhang and Sennrich, 2019), in float32 or better."""

    def forward(self, x: Tensor) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        weight = None if self.weight is None else self.weight.to(exact)
        return F.rms_norm(x.to(exact), self.normalized_shape, weight, self.eps).to(x.dtype)


class TokenGroupNorm(nn.GroupNorm):
    """GroupNorm (Wu and He, 2018): x (..., T, D), normalised per image over all tokens and the features of a group.

    `groups` must divide D; None takes the greatest common divisor of 8 and D.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, *, groups: int | None = None) -> None:
        if groups is not None and num_features % groups:
            raise ValueError(f"groups={groups} does not divide {num_features} features")
        super().__init__(groups or gcd(8, num_features), num_features, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        # torch.group_norm, because F.group_norm refuses one image with one value per group
        if x.ndim == 2:  # without tokens
            return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        tokens_last = x.flatten(0, -3).transpose(1, 2)  # (images, D, T)
        normed = torch.group_norm(tokens_last, self.num_groups, self.weight, self.bias, self.eps)
        return normed.transpose(1, 2).view(x.shape)


class TokenInstanceNorm(TokenGroupNorm):
    """InstanceNorm (Ulyanov et al., 2016): x (..., T, D), normalised per image and feature over the tokens."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps, groups=num_features)


class DynamicTanh(nn.Module):
    """weight tanh(alpha x) + bias with one learned alpha (Zhu et al., 2025): no statistics at all."""

    def __init__(self, num_features: int, *, alpha: float = 0.5) -> None:
        super().__init__()
        self.initial_alpha = alpha
        self.alpha = nn.Parameter(torch.empty(1))
        self.weight = nn.Parameter(torch.empty(num_features))
        self.bias = nn.Parameter(torch.empty(num_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The given alpha; no scale and no shift."""
        nn.init.constant_(self.alpha, self.initial_alpha)
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha * x) * self.weight + self.bias


class DynamicErf(DynamicTanh):
    """weight erf(alpha x + shift) + bias with one learned alpha and one learned shift (Chen et al., 2025)."""

    def __init__(self, num_features: int, *, alpha: float = 0.5, shift: float = 0.0) -> None:
        super().__init__(num_features, alpha=alpha)
        self.initial_shift = shift
        self.shift = nn.Parameter(torch.full((1,), float(shift)))

    def reset_parameters(self) -> None:
        """The given alpha and shift; no scale and no bias."""
        super().reset_parameters()
        if hasattr(self, "shift"):  # not yet when the constructor calls
            nn.init.constant_(self.shift, self.initial_shift)

    def forward(self, x: Tensor) -> Tensor:
        return torch.erf(self.alpha * x + self.shift) * self.weight + self.bias


class LayerScale(nn.Module):
    """weight x, a learned scale per feature and nothing else: LayerScale (Touvron et al., 2021b).

    From `init` 0 in attn_out and ffn_out it is ReZero (Bachlechner et al., 2021), per feature.
    """

    def __init__(self, num_features: int, *, init: float = 0.1) -> None:
        super().__init__()
        self.init = init
        self.weight = nn.Parameter(torch.empty(num_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every scale at `init`."""
        nn.init.constant_(self.weight, self.init)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight

    def as_affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift (D,) of the map that it is in evaluation."""
        return self.weight, torch.zeros_like(self.weight)
