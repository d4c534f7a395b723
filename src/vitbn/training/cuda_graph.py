"""A training step recorded once as a CUDA graph: its hundreds of small kernels start with one call."""

from collections.abc import Callable
from itertools import chain

import pytorch_lightning as pl
import torch
from torch import Tensor

from vitbn.data.batches import Batch
from vitbn.models.dropout import Dropout

Outcome = tuple[Tensor, Tensor, Tensor]  # loss (), gradient norm (), logits (B, num_classes)
WARM_UP = 3  # steps before recording, as torch's documentation asks for; they are undone


def capturable(module: pl.LightningModule) -> bool:
    """Whether a step needs nothing from outside: no dropout masks drawn on the CPU, no loss scale adapted there,
    no gradients of other processes."""
    dropout = any(isinstance(each, Dropout) and each.active for each in module.modules())
    return not dropout and module.trainer.precision != "16-mixed" and module.trainer.world_size == 1


class Captured:
    """`step(batch)` of one batch shape as a CUDA graph. What the warm-up changes is put back.

    That is parameters, BatchNorm's statistics and the optimizer's state; state that did not exist before is zeroed,
    which is where Adam, AdamW and SGD without dampening start from.
    """

    def __init__(
        self, step: Callable[[Batch], Outcome], batch: Batch, module: pl.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:  # fmt: skip
        self.batch = Batch(batch.images.clone(), batch.labels.clone(), batch.total)
        for group in optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = batch.images.is_cuda
            group["lr"] = torch.as_tensor(group["lr"], device=batch.images.device)  # a schedule fills it in place
        before = [(tensor, tensor.clone()) for tensor in _tensors(module, optimizer)]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                step(self.batch)
        torch.cuda.current_stream().wait_stream(side)
        _restore(before, _tensors(module, optimizer))
        torch.clear_autocast_cache()  # casts made outside the graph would go stale
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outcome = step(self.batch)
        torch.clear_autocast_cache()

    def fits(self, batch: Batch) -> bool:
        """Whether the batch has the recorded shape; the last one of an epoch may be smaller."""
        return batch.images.shape == self.batch.images.shape

    def __call__(self, batch: Batch) -> Outcome:
        self.batch.images.copy_(batch.images)
        self.batch.labels.copy_(batch.labels)
        self.graph.replay()
        loss, norm, logits = self.outcome
        return loss.clone(), norm.clone(), logits.clone()


def _tensors(module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Everything a step changes in place."""
    states = chain.from_iterable(state.values() for state in optimizer.state.values())
    return [*module.parameters(), *module.buffers(), *(value for value in states if isinstance(value, Tensor))]


@torch.no_grad()
def _restore(before: list[tuple[Tensor, Tensor]], now: list[Tensor]) -> None:
    known = {id(tensor) for tensor, _ in before}
    for tensor, value in before:
        tensor.copy_(value)
    for tensor in now:
        if id(tensor) not in known:
            tensor.zero_()
