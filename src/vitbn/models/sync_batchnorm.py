"""BatchNorm over the batch of all processes together, on any device and for any of our shapes.

torch's SyncBatchNorm takes neither tensors on a CPU nor tokens; the function is the same.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitbn.errors import InputError
from vitbn.models.bn_statistics import batch_norms, feature_dim
from vitbn.norms.batch import RunningNorm
from vitbn.norms.table import entry


class SyncBatchNorm(RunningNorm):
    """What a BatchNorm is replaced by, with its parameters and buffers under the same names: training, it normalises by
    the samples of all processes, whose counts may differ."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.feature_dim = feature_dim(norm)
        self.eps = norm.eps
        self.momentum = norm.momentum
        self.track_running_stats = norm.track_running_stats
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(norm, name))  # None with affine=False
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        for name, module in norm.named_children():  # timm's BatchNormAct2d applies a dropout and an activation
            self.add_module(name, module)
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        features_last = x.movedim(self.feature_dim, -1)
        rows = features_last.reshape(-1, self.running_mean.numel())
        if self.training:
            normed, mean, var = _Normalize.apply(rows, self.eps)
            if self.track_running_stats:
                self.num_batches_tracked.add_(1)
                share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(var, share)
        else:
            normed = (rows - self.running_mean) * (self.running_var + self.eps).rsqrt()
        out = normed.view(features_last.shape)
        if self.weight is not None:
            out = out * self.weight + self.bias
        out = out.to(x.dtype).movedim(-1, self.feature_dim)
        for module in self.children():
            out = module(out)
        return out


def convert_sync_batchnorm(net: nn.Module) -> nn.Module:
    """The network with every BatchNorm replaced by a `SyncBatchNorm`, or its relatives told to pool by themselves.

    InputError names a norm that mixes images and cannot be pooled over processes.
    """
    for name, module in net.named_modules():
        norm = entry(module)
        if norm is not None and norm.pools == "refused":
            remedy = 'if it norms each image by itself, say pools="alone" in NORMS (docs/extending.md)'
            raise InputError(f"{name}: {type(module).__name__} cannot be pooled over processes; {remedy}")
    for name, norm in batch_norms(net).items():
        of_ours = entry(norm)
        if of_ours is not None and of_ours.pools == "itself":
            norm.synced = True
        else:
            net.set_submodule(name, SyncBatchNorm(norm))
    return net


class _Normalize(torch.autograd.Function):
    """Rows (N, features), N ≥ 0 -> the rows with mean 0 and variance 1 over all processes; the mean and the unbiased
    variance (features,). One message forward, pooled after Chan et al. (1979), and one back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        exact = rows if rows.dtype == torch.float64 else rows.float()
        count = exact.new_full((1, rows.shape[1]), len(rows))
        mean = exact.sum(0) / max(1, len(rows))
        local = torch.cat([count, mean[None], (exact - mean).square().sum(0)[None]])
        gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, local)
        counts, means, squares = torch.stack(gathered).unbind(1)
        total = counts.sum(0)
        mean = (counts * means).sum(0) / total
        squared_deviations = (squares + counts * (means - mean).square()).sum(0)
        scale = (squared_deviations / total + eps).rsqrt()
        normed = (exact - mean) * scale
        ctx.save_for_backward(normed, scale, total)
        unbiased = squared_deviations / (total - 1)
        ctx.mark_non_differentiable(mean, unbiased)
        return normed.to(rows.dtype), mean, unbiased

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        if torch.is_grad_enabled():
            raise NotImplementedError("SyncBatchNorm has no second derivatives")
        normed, scale, total = ctx.saved_tensors
        exact = grad.to(normed.dtype)
        sums = torch.stack([exact.sum(0), (exact * normed).sum(0)])
        dist.all_reduce(sums)
        shift, slope = sums / total
        return ((exact - shift - normed * slope) * scale).to(grad.dtype), None
