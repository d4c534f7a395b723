"""One LightningModule around any network that maps images to logits."""

import math
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

from vitbn.data.batches import Batch
from vitbn.keyed import generator
from vitbn.models.build import OptimizerFactory
from vitbn.models.dropout import Dropout
from vitbn.training.schedule import Factor


class MeanLoss(Metric):
    """Mean over samples. torchmetrics' MeanMetric checks for NaN at every step, which makes an accelerator wait,
    and forgets the weights when told not to (1.9.0)."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, samples: int) -> None:
        """`loss` is the mean over `samples`."""
        self.total += loss * samples
        self.count += samples

    def compute(self) -> Tensor:
        return self.total / self.count


class Classifier(pl.LightningModule):
    """Cross-entropy and top-1 accuracy of `net`; dropout masks keyed by (seed, step, layer).

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
        self.net, self.make_optimizer, self.seed, self.factor = net, optimizer, seed, factor
        self.lr = math.nan  # of the latest step
        self._test_batch = 0
        # no range checks inside: they would make an accelerator wait at every step
        accuracy = partial(MulticlassAccuracy, num_classes, average="micro", validate_args=False)
        self.train_mode_acc = accuracy() if test_train_mode else None
        for stage in ("train", "val", "test"):
            self.add_module(f"{stage}_loss", MeanLoss())
            self.add_module(f"{stage}_acc", accuracy())
        for metric in self._metrics("train").values():
            metric.persistent(True)  # a checkpoint in mid-epoch keeps what the epoch has added up so far
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        for name, module in net.named_modules():
            if isinstance(module, Dropout):
                module.draw = partial(self._uniform, name)

    def _uniform(self, layer: str, shape: torch.Size) -> Tensor:
        moment = ("dropout", self.global_step) if self.training else ("test dropout", self._test_batch)
        return torch.rand(shape, generator=generator(self.seed, *moment, layer))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step("train", batch)[0]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        _, logits = self._step("test", batch)
        self.confusion.update(logits, batch[1])
        if self.train_mode_acc is not None:
            self._test_batch = batch_idx
            with training_mode(self.net):
                self.train_mode_acc.update(self.net(batch[0]), batch[1])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.lr = self.trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_epoch_end(self) -> None:
        self._log_stage("train")

    def on_validation_epoch_end(self) -> None:
        self._log_stage("val")

    def on_test_epoch_end(self) -> None:
        self._log_stage("test")
        if self.train_mode_acc is not None:
            self.log("test/acc_train_mode", self.train_mode_acc.compute())
            self.train_mode_acc.reset()

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        if self.factor is None:
            return optimizer
        schedule = {"scheduler": LambdaLR(optimizer, self.factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def values(self, stage: str) -> dict[str, Tensor]:
        """Loss and accuracy of train, val or test so far, 0-dimensional."""
        return {f"{stage}/{name}": metric.compute() for name, metric in self._metrics(stage).items()}

    def _metrics(self, stage: str) -> dict[str, Metric]:
        return {name: cast(Metric, getattr(self, f"{stage}_{name}")) for name in ("loss", "acc")}

    def _step(self, stage: str, batch: Batch) -> tuple[Tensor, Tensor]:
        images, labels = batch
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels)
        metrics = self._metrics(stage)
        metrics["loss"].update(loss.detach(), len(labels))
        metrics["acc"].update(logits.detach(), labels)
        return loss, logits

    def _log_stage(self, stage: str) -> None:
        self.log_dict(self.values(stage))
        for metric in self._metrics(stage).values():
            metric.reset()


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
