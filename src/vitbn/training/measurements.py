"""What instruments measure, each a formula: activations at the norms, statistics gaps, attention entropy, sharpness.

Shape legend: B images, H heads, Q queries, T tokens, D features.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

SHARPNESS_STEP = 0.01  # length of the step in weights; docs/instruments.md compares it with the exact curvature
Parts = Mapping[tuple[str, str], list[int]]  # (layer, group) -> positions of its parameters


def layer_of(name: str) -> str:
    """The layer a module or parameter belongs to: its name up to the first part with a number, else its first part.

    blocks.3.ffn.fc1.weight -> blocks.3; encoder.layers.encoder_layer_2.ln_1 -> encoder.layers.encoder_layer_2.
    """
    parts = name.split(".")
    numbered = next((index for index, part in enumerate(parts) if re.search(r"\d", part)), 0)
    return ".".join(parts[: numbered + 1])


@dataclass(frozen=True)
class FeatureMoments:
    """Mean and (biased) variance of each feature over `count` samples: all images and tokens of a batch."""

    count: float
    mean: Tensor  # D
    var: Tensor  # D

    @classmethod
    def of(cls, rows: Tensor) -> "FeatureMoments":
        """Of samples (N, D)."""
        var, mean = torch.var_mean(rows, dim=0, correction=0)
        return cls(len(rows), mean, var)

    @classmethod
    def pooled(cls, shares: Iterable["FeatureMoments"]) -> "FeatureMoments":
        """Those of all shares of a batch together."""
        shares = [share for share in shares if share.count]
        count = sum(share.count for share in shares)
        mean = torch.stack([share.mean * (share.count / count) for share in shares]).sum(0)
        squares = [(share.var + (share.mean - mean).square()) * (share.count / count) for share in shares]
        return cls(count, mean, torch.stack(squares).sum(0))

    def overall(self) -> tuple[Tensor, Tensor]:
        """Mean and variance over images, tokens and features: m = mean_d m_d, v = mean_d (v_d + m_d^2) - m^2."""
        mean = self.mean.mean()
        return mean, self.var.mean() + (self.mean - mean).square().mean()

    def gap(self, running_mean: Tensor, running_var: Tensor) -> tuple[Tensor, Tensor]:
        """How far a batch's statistics m, s lie from the running ones: |m - mu| / |sigma| and |s - sigma| / |sigma|.

        |.| is the Euclidean norm over features, s and sigma are standard deviations, s^2 unbiased as running variances
        are: the Training Inference Discrepancy of mean and variance (Wang et al., 2022) on one batch.
        """
        deviation, running = (self.var * (self.count / (self.count - 1))).sqrt(), running_var.sqrt()
        scale = running.norm()
        return (self.mean - running_mean).norm() / scale, (deviation - running).norm() / scale


def attention_entropy(weights: Tensor) -> Tensor:
    """Mean over images, heads and queries of -sum_t a_t ln a_t / ln T of weights (B, H, Q, T).

    1 where attention is uniform, 0 where it is on one token (Zhai et al., 2023, who leave it in nats).
    """
    return torch.special.entr(weights).sum(-1).mean() / torch.log(torch.tensor(weights.shape[-1], dtype=weights.dtype))


def parts_of(net: nn.Module) -> Parts:
    """The positions of each layer's parameters: all, `weights` (what weight decay is for) and `others`."""
    parts: dict[tuple[str, str], list[int]] = {}
    for index, (name, parameter) in enumerate(net.named_parameters()):
        is_weight = name.endswith("weight") and parameter.ndim > 1
        for group in ("", "weights" if is_weight else "others"):
            parts.setdefault((layer_of(name), group), []).append(index)
    return parts


def norms(tensors: Iterable[Tensor | None]) -> Tensor:
    """The Euclidean norm of each tensor, 0 for none."""
    measured = [torch.zeros(()) if tensor is None else torch.linalg.vector_norm(tensor.float()) for tensor in tensors]
    return torch.stack([norm.to(measured[-1].device) for norm in measured])


def of_parts(norms: Tensor, parts: Parts) -> dict[tuple[str, str], float]:
    """The norm of each part's parameters together, from those of the single ones."""
    squares = norms.double().square().tolist()
    return {part: sum(squares[index] for index in members) ** 0.5 for part, members in parts.items()}


def losses_along(
    net: nn.Module, direction: Mapping[str, Tensor], lengths: Iterable[float], images: Tensor, labels: Tensor, *,
    label_smoothing: float = 0.0, seed: int = 0,
) -> list[Tensor]:  # fmt: skip
    """Mean cross-entropy of the images at weights w + length d, in float32 or better, all with the same dropout.

    The network and the generators are left as they are: it computes with copies, buffers included.
    """
    device = images.device
    seed_generators = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed

    def exact(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize < 4 else tensor

    losses = []
    for length in lengths:
        state = {name: exact(buffer.detach()).clone() for name, buffer in net.named_buffers()}
        for name, parameter in net.named_parameters():
            there = exact(parameter.detach())
            state[name] = there.add(direction[name].to(there), alpha=length) if name in direction else there
        with (
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
            torch.compiler.set_stance("force_eager"),
            _generators_kept(device),
        ):
            seed_generators(seed)
            logits = functional_call(net, state, (exact(images),))
        logits = logits if device.type == "mps" else logits.double()  # differences of nearly equal losses are to come
        losses.append(F.cross_entropy(logits, labels, label_smoothing=label_smoothing))
    return losses


def _generators_kept(device: torch.device) -> AbstractContextManager[None]:
    """After the block, torch's generators of the CPU and the device are what they were."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device.index or 0], device_type=device.type)


def curvature(before: float, here: float, after: float, length: float = SHARPNESS_STEP) -> float:
    """d^T H d by central differences of the loss L: (L(w - e d) - 2 L(w) + L(w + e d)) / e^2.

    With d = g / |g| it is g^T H g / g^T g, the sharpness that a gradient step meets (as in Cohen et al., 2021, who
    look at the largest eigenvalue of H); a step of the rate r lowers the loss to second order while it is below 2 / r.
    """
    return (before - 2 * here + after) / length**2
