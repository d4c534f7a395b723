"""One LightningModule around any network that maps images to logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from vitbn.data.batches import Batch, share
from vitbn.models.dropout import Dropout
from vitbn.models.factory import OptimizerFactory
from vitbn.rng import generator
from vitbn.training.cuda_graph import Captured, Outcome, capturable
from vitbn.training.schedule import Factor


class Mean(Metric):
    """Weighted mean. torchmetrics' MeanMetric checks for NaN at every step, which makes an accelerator wait,
    and forgets the weights when told not to (1.9.0)."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, values: Tensor, weights: Tensor) -> None:
        """Values (K,), each the mean over so many samples (K,)."""
        self.total += (values * weights).sum()
        self.count += weights.sum()

    def compute(self) -> Tensor:
        return self.total / self.count


class Classifier(pl.LightningModule):
    """Cross-entropy and top-1 accuracy of `net`; dropout masks keyed by (seed, step, layer).

    A training batch is a list of batches: Lightning's loop runs once for all of them, with an optimizer step each.
    Of several processes each works on its share of every batch; losses are means over the batch of all together.
    `factor` of a step multiplies the learning rate. `test_train_mode` also measures test/acc_train_mode: dropout on,
    statistics of each test batch.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        num_classes: int,
        optimizer: OptimizerFactory,
        seed: int,
        factor: Factor | None = None,
        test_train_mode: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net, self.make_optimizer, self.seed, self.factor = net, optimizer, seed, factor
        self.captures, self.captured = False, cast(Captured | None, None)
        self.gradient_norm = Mean()
        self.gradient_norm.persistent(True)
        # no range checks inside: they would make an accelerator wait at every step
        accuracy = partial(MulticlassAccuracy, num_classes, average="micro", validate_args=False)
        self.train_mode_acc = accuracy() if test_train_mode else None
        self._test_batch = 0
        self._total = 0  # images of the present batch, in all processes together
        for stage in ("train", "val", "test"):
            self.add_module(f"{stage}_loss", Mean())
            self.add_module(f"{stage}_acc", accuracy())
        for metric in self._metrics("train").values():
            metric.persistent(True)  # a checkpoint in mid-epoch keeps what the epoch has added up so far
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        for name, module in net.named_modules():
            if isinstance(module, Dropout):
                module.draw = partial(self._uniform, name)

    def _uniform(self, layer: str, shape: torch.Size) -> Tensor:
        moment = ("dropout", self.global_step) if self.training else ("test dropout", self._test_batch)
        total = self._total or shape[0]  # before the first batch the network is only tried out, alone
        uniform = torch.rand((total, *shape[1:]), generator=generator(self.seed, *moment, layer))
        return uniform[share(total, self.global_rank, self._processes)]

    @property
    def _processes(self) -> int:
        return self._trainer.world_size if self._trainer else 1

    def _summed(self, values: Tensor) -> Tensor:
        """Over the processes."""
        return self.trainer.strategy.reduce(values, reduce_op="sum") if self._processes > 1 else values  # type: ignore[return-value]

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the epoch has added up so far is that of all processes."""
        for name, metric in self._unfinished():
            with metric.sync_context():
                state = {f"{name}.{key}": cast(Tensor, value).clone() for key, value in metric.metric_state.items()}
            checkpoint["state_dict"] |= state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """... and is counted once."""
        weights = checkpoint["state_dict"]
        if self.global_rank > 0:
            for name, metric in self._unfinished():
                weights |= {key: torch.zeros_like(weights[key]) for key in (f"{name}.{k}" for k in metric.metric_state)}

    def _unfinished(self) -> Iterator[tuple[str, Metric]]:
        """The metrics that a checkpoint in mid-epoch holds, by name."""
        yield "gradient_norm", self.gradient_norm
        yield from ((f"train_{name}", metric) for name, metric in self._metrics("train").items())

    def on_train_start(self) -> None:
        self.captures = self.device.type == "cuda" and capturable(self)

    def training_step(self, chunk: list[Batch], batch_idx: int) -> dict[str, Tensor]:
        """The loss before each optimizer step, (K,)."""
        losses, norms, logits = zip(*map(self._advance, chunk), strict=True)
        loss = self._summed(torch.stack(losses))
        self._count("train", loss, torch.cat(logits), chunk)
        self.gradient_norm.update(torch.stack(norms), torch.ones_like(loss, dtype=torch.int64))
        return {"loss": loss}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        _update(self.confusion, self._evaluate("test", batch), batch.labels)
        if self.train_mode_acc is not None:
            self._test_batch, self._total = batch_idx, batch.total
            with training_mode(self.net):
                _update(self.train_mode_acc, self.net(batch.images), batch.labels)

    def on_train_epoch_end(self) -> None:
        self._log_stage("train")
        self.log("gradient norm", self.gradient_norm.compute())
        self.gradient_norm.reset()

    def on_validation_epoch_end(self) -> None:
        self._log_stage("val")

    def on_test_epoch_end(self) -> None:
        self._log_stage("test")
        if self.train_mode_acc is not None:
            self.log("test/acc_train_mode", self.train_mode_acc.compute())
            self.train_mode_acc.reset()

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        return optimizer if self.factor is None else ([optimizer], [LambdaLR(optimizer, self.factor)])

    @property
    def lr(self) -> float:
        """The learning rate of the latest step."""
        if self.factor is None:
            return float(self.trainer.optimizers[0].param_groups[0]["lr"])
        schedule = cast(LambdaLR, self.lr_schedulers())
        return float(schedule.base_lrs[0]) * self.factor(schedule.last_epoch - 1)

    def values(self, stage: str) -> dict[str, Tensor]:
        """Loss and accuracy of train, val or test so far, 0-dimensional."""
        return {f"{stage}/{name}": metric.compute() for name, metric in self._metrics(stage).items()}

    def _metrics(self, stage: str) -> dict[str, Metric]:
        return {name: cast(Metric, getattr(self, f"{stage}_{name}")) for name in ("loss", "acc")}

    def _advance(self, batch: Batch) -> Outcome:
        """One optimizer step and one of the schedule."""
        outcome = self._step(batch)
        if self.factor is not None:
            cast(LambdaLR, self.lr_schedulers()).step()
        return outcome

    def _step(self, batch: Batch) -> Outcome:
        """One optimizer step, replayed from a CUDA graph where it can be."""
        if self.captures and self.captured is None:
            optimizer = cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False))
            self.captured = Captured(partial(self._optimize, optimizer=optimizer), batch, self, optimizer)
        if self.captured is None or not self.captured.fits(batch):
            return self._optimize(batch, self.optimizers())
        steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        steps.increment_ready()
        steps.increment_completed()
        return self.captured(batch)

    def _optimize(self, batch: Batch, optimizer: Any) -> Outcome:
        images, labels, self._total = batch
        logits = self.net(images)
        loss = _part_of_mean(logits, batch)
        optimizer.zero_grad()
        # DistributedDataParallel will average over the processes what is to be summed
        self.manual_backward(loss if self._processes == 1 else loss * self._processes)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        optimizer.step()
        return loss.detach(), norm, logits.detach()

    def _evaluate(self, stage: str, batch: Batch) -> Tensor:
        logits = self.net(batch.images)
        loss = self._summed(_part_of_mean(logits, batch))
        self._count(stage, loss[None], logits, [batch])
        return logits

    def _count(self, stage: str, losses: Tensor, logits: Tensor, batches: list[Batch]) -> None:
        metrics, sizes = self._metrics(stage), [len(batch.labels) for batch in batches]
        counts = torch.full((len(sizes),), sizes[0], device=losses.device)
        if len(set(sizes)) > 1:  # only here, at the end of an epoch, is anything copied to a GPU
            counts = torch.tensor(sizes, device=losses.device)
        metrics["loss"].update(losses, counts)
        _update(metrics["acc"], logits, torch.cat([batch.labels for batch in batches]))

    def _log_stage(self, stage: str) -> None:
        # `step` is where TensorBoard draws the point: optimizer steps, not Lightning's chunks of them
        self.log_dict({**self.values(stage), "step": float(self.global_step)})
        for metric in self._metrics(stage).values():
            metric.reset()


def _part_of_mean(logits: Tensor, batch: Batch) -> Tensor:
    """The present process's summand of the mean cross-entropy over the whole batch."""
    if len(batch.labels) == batch.total:
        return F.cross_entropy(logits, batch.labels)
    return F.cross_entropy(logits, batch.labels, reduction="sum") / batch.total


def _update(metric: Metric, logits: Tensor, labels: Tensor) -> None:
    if len(labels):  # torchmetrics has no answer to an empty share
        metric.update(logits, labels)


@contextmanager
def training_mode(net: nn.Module) -> Iterator[None]:
    """The network as it is while it trains; afterwards its running statistics are what they were."""
    before = [(buffer, buffer.clone()) for buffer in net.buffers()]
    net.train()
    try:
        yield
    finally:
        net.eval()
        for buffer, value in before:
            buffer.copy_(value)
