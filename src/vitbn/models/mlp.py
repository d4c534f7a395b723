"""The fully connected networks of the article's first figures and of the notebook, with and without BatchNorm."""

from collections.abc import Sequence

from torch import Tensor, nn

from vitbn.norms.kinds import Kind
from vitbn.norms.table import make_norm

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


class MLP(nn.Sequential):
    """Images (B, C, S, S) -> logits (B, num_classes) through hidden layers of the given widths.

    `norm` stands before the activation ("pre") or after it ("post"). ValueError lists the choices.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        num_classes: int,
        hidden: Sequence[int],
        activation: str,
        norm: Kind = "none",
        norm_at: str = "pre",
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; choose from {', '.join(ACTIVATIONS)}")
        if norm_at not in ("pre", "post"):
            raise ValueError(f"unknown norm_at {norm_at!r}; choose from pre, post")
        super().__init__(nn.Flatten())
        width = channels * image_size**2
        for number, features in enumerate(hidden, start=1):
            self.add_module(f"hidden{number}", nn.Linear(width, features))
            for part in ("norm", "act") if norm_at == "pre" else ("act", "norm"):
                layer = make_norm(norm, features) if part == "norm" else ACTIVATIONS[activation]()
                self.add_module(f"{part}{number}", layer)
            width = features
        self.add_module("head", nn.Linear(width, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)
