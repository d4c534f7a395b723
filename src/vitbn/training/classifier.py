"""One LightningModule around any network that maps images to logits."""

from functools import partial
from typing import cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from vitbn.data.batches import Batch
from vitbn.keyed import generator
from vitbn.models.build import OptimizerFactory
from vitbn.models.dropout import Dropout


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
    """Cross-entropy and top-1 accuracy of `net`; dropout masks keyed by (seed, step, layer)."""

    def __init__(self, net: nn.Module, *, num_classes: int, optimizer: OptimizerFactory, seed: int) -> None:
        super().__init__()
        self.net, self.make_optimizer, self.seed = net, optimizer, seed
        for stage in ("train", "val", "test"):
            self.add_module(f"{stage}_loss", MeanLoss())
            # no range checks inside: they would make an accelerator wait at every step
            self.add_module(f"{stage}_acc", MulticlassAccuracy(num_classes, average="micro", validate_args=False))
        for metric in self._metrics("train").values():
            metric.persistent(True)  # a checkpoint in mid-epoch keeps what the epoch has added up so far
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        for name, module in net.named_modules():
            if isinstance(module, Dropout):
                module.draw = partial(self._uniform, name)

    def _uniform(self, layer: str, shape: torch.Size) -> Tensor:
        return torch.rand(shape, generator=generator(self.seed, "dropout", self.global_step, layer))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step("train", batch)[0]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        _, logits = self._step("test", batch)
        self.confusion.update(logits, batch[1])

    def on_train_epoch_end(self) -> None:
        self._log_stage("train")

    def on_validation_epoch_end(self) -> None:
        self._log_stage("val")

    def on_test_epoch_end(self) -> None:
        self._log_stage("test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.parameters())

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
