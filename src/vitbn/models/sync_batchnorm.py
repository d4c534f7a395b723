"""BatchNorm over the batch of all processes together, on any device and for any of our shapes.

torch's SyncBatchNorm takes neither tensors on a CPU nor tokens; the function is the same.
"""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitbn.models.bn_statistics import batch_norms, features_last


def synchronize(net: nn.Module) -> None:
    """From now on every BatchNorm that trains normalises by all processes' samples; their counts may differ."""
    for norm in batch_norms(net).values():
        norm.forward = partial(_forward, norm, norm.forward)


def _forward(norm: Any, alone: Any, x: Tensor) -> Tensor:
    if not norm.training:
        return alone(x)
    arranged = features_last(norm, x)
    normed, mean, var = _Normalize.apply(arranged.reshape(-1, norm.running_mean.numel()), norm.eps)
    if norm.track_running_stats:
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var, norm.momentum)
    result = normed.view(arranged.shape) * norm.weight + norm.bias
    return result if arranged is x else result.movedim(-1, 1)


class _Normalize(torch.autograd.Function):
    """Rows (N, features), N ≥ 0 -> the rows with mean 0 and variance 1 over all processes; the mean and the unbiased
    variance (features,). One message forward, pooled after Chan et al. (1979), and one back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        exact = rows if rows.dtype == torch.float64 else rows.float()
        count = exact.new_full((1, rows.shape[1]), len(rows))
        mean = exact.sum(0) / max(1, len(rows))
        mine = torch.cat([count, mean[None], (exact - mean).square().sum(0)[None]])
        gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, mine)
        counts, means, squares = torch.stack(gathered).unbind(1)
        total = counts.sum(0)
        mean = (counts * means).sum(0) / total
        spread = (squares + counts * (means - mean).square()).sum(0)
        scale = (spread / total + eps).rsqrt()
        normed = (exact - mean) * scale
        ctx.save_for_backward(normed, scale, total)
        unbiased = spread / (total - 1)
        ctx.mark_non_differentiable(mean, unbiased)
        return normed.to(rows.dtype), mean, unbiased

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        normed, scale, total = ctx.saved_tensors
        exact = grad.to(normed.dtype)
        sums = torch.stack([exact.sum(0), (exact * normed).sum(0)])
        dist.all_reduce(sums)
        shift, slope = sums / total
        return ((exact - shift - normed * slope) * scale).to(grad.dtype), None
