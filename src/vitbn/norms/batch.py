"""BatchNorm over tokens and its relatives: statistics of the batch in training, running ones in evaluation.

Shapes: x (..., D), D features; its first dimension are the images.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce  # differentiable
from torch.nn import functional as F


def but_in_float32(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What `to`, `half` or `cuda` does to a tensor, in float32 instead of half precision.

    For `_apply`, which all of these go through: torch has no public way to leave a module out of them.
    """

    def moved(tensor: Tensor) -> Tensor:
        result = fn(tensor)
        halved = result.is_floating_point() and result.dtype.itemsize < 4
        return tensor.to(result.device, torch.float32) if halved else result

    return moved


class Float32Norm(nn.Module):
    """A norm that stays in float32 when its network becomes bfloat16 or half, and takes inputs of either.

    Running statistics added up in eight bits of precision would stop a hundredth away from where they should be.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        return super()._apply(but_in_float32(fn), recurse)


class RunningNorm(Float32Norm):
    """In evaluation (x - running_mean) / sqrt(running_var + eps) weight + bias."""

    feature_dim = -1  # torch's own have their features in dimension 1
    num_features: int
    eps: float
    momentum: float  # torch allows None
    track_running_stats: bool  # false leaves the buffers alone in training mode, as in torch's own
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def as_affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift (D,) of the map that it is in evaluation."""
        scale = (self.running_var + self.eps).rsqrt()
        if self.weight is None:  # affine=False
            return scale, -self.running_mean * scale
        scale = self.weight * scale
        return scale, self.bias - self.running_mean * scale

    def statistics(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """What `running_mean` and `running_var` should be for inputs of this mean and variance."""
        return mean, var


class TokenBatchNorm(RunningNorm, nn.BatchNorm1d):  # type: ignore[misc]  # torch has them optional
    """BatchNorm over batch and tokens, per feature (Ioffe and Szegedy, 2015, algorithm 1).

    The same function as BatchNorm2d on (B, D, N, 1), without the two transposes.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.num_features:
            raise ValueError(f"expected {self.num_features} features in the last dimension, got {x.shape[-1]}")
        return super().forward(x.reshape(-1, self.num_features)).view(x.shape)


class GhostBatchNorm(TokenBatchNorm):
    """BatchNorm of every `virtual` images of a batch by themselves (Hoffer et al., 2017, algorithm 1).

    The last of these parts is smaller where `virtual` does not divide the batch.
    """

    synced = False  # whether the running statistics count the parts of all processes

    def __init__(self, num_features: int, eps: float = 1e-5, *, virtual: int = 25, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.virtual = virtual

    def forward(self, x: Tensor) -> Tensor:
        norm = super().forward
        if not self.training or not self.track_running_stats:
            return norm(x)
        if not self.synced:
            return torch.cat([norm(part) for part in x.split(self.virtual)])
        mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        rows = [part.reshape(-1, self.num_features) for part in x.split(self.virtual) if len(part)]
        affine = (self.weight, self.bias, True, self.momentum, self.eps)
        normed = [F.batch_norm(part, mean, var, *affine) for part in rows]
        self._count(len(rows), mean, var)
        return torch.cat(normed).view(x.shape) if normed else x * self.weight + self.bias  # whose gradients are 0

    @torch.no_grad()
    def _count(self, parts: int, mean: Tensor, var: Tensor) -> None:
        """Running statistics as if the parts of all processes had come one after another; theirs began at zero."""
        own = torch.stack([torch.full_like(mean, parts), mean, var])
        gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, own)
        for count, mean, var in gathered:
            kept = (1 - self.momentum) ** count
            self.running_mean.mul_(kept).add_(mean)
            self.running_var.mul_(kept).add_(var)
            self.num_batches_tracked.add_(count[0].long())


class _OwnState(RunningNorm):
    """A norm that torch has no class for, with parameters and buffers under the names of torch's BatchNorm."""

    def __init__(self, num_features: int, eps: float, momentum: float, statistics: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.track_running_stats = True
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(statistics))
        self.register_buffer("running_var", torch.ones(statistics))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def reset_parameters(self) -> None:
        """Identity affine map, fresh statistics."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        self.running_mean.zero_()
        self.running_var.fill_(1)
        self.num_batches_tracked.zero_()


class ScalarBatchNorm(_OwnState):
    """BatchNorm with one mean and one variance for the whole (..., D) tensor; affine per feature."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps, momentum, statistics=1)

    def forward(self, x: Tensor) -> Tensor:
        tracked = self.training and self.track_running_stats
        if tracked:
            self.num_batches_tracked.add_(1)
        used = tracked or not self.training
        mean, var = (self.running_mean, self.running_var) if used else (None, None)
        flat = x.reshape(1, 1, -1)  # one channel; as (N, 1) torch's kernel for the CPU loses precision as N grows
        normed = F.batch_norm(flat, mean, var, None, None, self.training, self.momentum, self.eps)
        return (normed.view(x.shape) * self.weight + self.bias).to(x.dtype)


class _Formula(_OwnState):
    """A norm written as a formula of the batch's moments, in float32 or better."""

    synced = False  # whether the batch is that of all processes

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__(num_features, eps, momentum, statistics=num_features)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.num_features).to(torch.promote_types(x.dtype, torch.float32))
        if self.training and len(rows) == 1 and not self.synced:
            raise ValueError(f"Expected more than 1 value per channel when training, got {tuple(x.shape)}")
        if self.training and (len(rows) or self.synced):
            normed = self.normalised(rows)
        else:  # an empty batch has no moments
            normed = (rows - self.running_mean) * (self.running_var + self.eps).rsqrt()
        return (normed * self.weight + self.bias).to(x.dtype).view(x.shape)

    def normalised(self, rows: Tensor) -> Tensor:
        """Rows (N, D) in training, before the affine map; updates the running statistics."""
        raise NotImplementedError

    def mean(self, rows: Tensor) -> Tensor:
        """Mean over the rows (N, D), N ≥ 0, of this process or of all."""
        if not self.synced:
            return rows.mean(0)
        total = all_reduce(torch.cat([rows.sum(0), rows.new_tensor([len(rows)])]))
        return total[:-1] / total[-1]


class BatchRenorm(_Formula):
    """Batch Renormalization (Ioffe, 2017, algorithm 1): x̂ = (x - μ) / σ r + d, which is what evaluation computes.

    r = σ / running σ within [1/r_max, r_max] and d = (μ - running μ) / running σ within ±d_max are constants to the
    gradient. Over the share `ramp` of the training the limits widen from plain BatchNorm's, r = 1 and d = 0, in a
    straight line; `set_progress` says where it is.
    """

    progress: Tensor

    def __init__(
        self, num_features: int, eps: float = 1e-5, *,
        momentum: float = 0.01, r_max: float = 3.0, d_max: float = 5.0, ramp: float = 0.25,
    ) -> None:  # fmt: skip
        super().__init__(num_features, eps, momentum)
        if not ramp > 0:
            raise ValueError(f"ramp={ramp}: must be above 0")
        self.r_max = r_max
        self.d_max = d_max
        self.ramp = ramp
        self.register_buffer("progress", torch.zeros(()))

    def normalised(self, rows: Tensor) -> Tensor:
        mean = self.mean(rows)
        sigma = (self.mean((rows - mean).square()) + self.eps).sqrt()
        normed = (rows - mean) / sigma
        if not self.track_running_stats:
            return normed
        with torch.no_grad():
            running_sigma = (self.running_var + self.eps).sqrt()
            reached = (self.progress / self.ramp).clamp(max=1)
            r_max, d_max = 1 + (self.r_max - 1) * reached, self.d_max * reached
            r = (sigma / running_sigma).clamp(1 / r_max, r_max)
            d = ((mean - self.running_mean) / running_sigma).clamp(-d_max, d_max)
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.copy_(running_sigma.lerp(sigma, self.momentum).square() - self.eps)
        return normed * r + d


class PowerNorm(_Formula):
    """PowerNorm-V (Shen et al., 2020): x / ψ with ψ² the mean of squares over batch and tokens; no mean is taken off.

    `running_mean` stays 0 and `running_var` is the running mean of ψ².
    """

    def __init__(self, num_features: int, eps: float = 1e-5, *, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps, momentum)

    def normalised(self, rows: Tensor) -> Tensor:
        squares = self.mean(rows.square())
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            self.running_var.lerp_(squares.detach(), self.momentum)
        return rows * (squares + self.eps).rsqrt()

    def statistics(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(mean), var + mean.square()
