"""BatchNorm with a learned identity beside it, and the way from LayerNorm to it (Guo et al., 2024: SLAB).

Shapes: (..., D).
"""

import torch
from torch import Tensor, nn

from vitbn.norms.batch import Float32Norm, TokenBatchNorm


class RepBatchNorm(Float32Norm):
    """RepBN: BatchNorm(x) + η x with one learned η, which in evaluation is an affine map as BatchNorm is."""

    def __init__(self, num_features: int, eps: float = 1e-5, *, eta: float = 1.0, momentum: float = 0.1) -> None:
        super().__init__()
        self.initial_eta = eta
        self.bn = TokenBatchNorm(num_features, eps=eps, momentum=momentum)
        self.eta = nn.Parameter(torch.full((1,), float(eta)))

    def reset_parameters(self) -> None:
        """η as given; `bn` resets itself."""
        nn.init.constant_(self.eta, self.initial_eta)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x) + (self.eta * x).to(x.dtype)

    def as_affine(self) -> tuple[Tensor, Tensor] | None:
        """Scale and shift (D,) of the map that it is in evaluation."""
        scale, shift = self.bn.as_affine()
        return scale + self.eta, shift


class ProgressiveRepBatchNorm(RepBatchNorm):
    """PRepBN: λ LayerNorm(x) + (1 - λ) RepBN(x), λ falling from 1 to 0 over the share `over` of the training.

    `set_progress` says where the training is. Evaluation uses the λ that training has reached; the authors' code
    evaluates RepBN alone, which is the same from the end of the fall on, when it folds.
    """

    progress: Tensor

    def __init__(
        self, num_features: int, eps: float = 1e-5, *, eta: float = 1.0, over: float = 0.8, momentum: float = 0.1
    ) -> None:
        super().__init__(num_features, eps, eta=eta, momentum=momentum)
        if not over > 0:
            raise ValueError(f"over={over}: must be above 0")
        self.over = over
        self.ln = nn.LayerNorm(num_features, eps=eps)
        self.register_buffer("progress", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        share = (1 - self.progress / self.over).clamp(min=0).to(x.dtype)
        normed = self.ln(x.to(self.ln.weight.dtype)).to(x.dtype)  # a GPU's kernel takes one dtype for both
        return share * normed + (1 - share) * super().forward(x)

    def as_affine(self) -> tuple[Tensor, Tensor] | None:
        """None until LayerNorm's share has fallen to 0."""
        return super().as_affine() if self.progress >= self.over else None
