"""The LightningModule: any network that maps images to logits, trained by cross-entropy."""

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from vitbn import rng
from vitbn.data.batches import Batch


class Mean(Metric):
    """Weighted mean. torchmetrics' MeanMetric makes an accelerator wait at every step to look for NaN, and forgets
    the weights when told not to (1.9.0)."""

    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: int = 1) -> None:
        self.total += value * weight
        self.weight += weight

    def compute(self) -> Tensor:
        return self.total / self.weight


class Classifier(pl.LightningModule):
    """Logs loss and top-1 accuracy of train, val and test as `<stage>/loss` and `<stage>/acc`, per epoch.

    `make_optimizer` takes the parameters; `lr_factor` maps a step to what multiplies the learning rate, None leaves
    it constant. Every step draws from generators seeded with (seed, step, rank): a resumed run draws the same.
    """

    train_loss: Mean
    train_acc: MulticlassAccuracy
    val_loss: Mean
    val_acc: MulticlassAccuracy
    test_loss: Mean
    test_acc: MulticlassAccuracy

    def __init__(
        self,
        net: nn.Module,
        *,
        num_classes: int,
        make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        lr_factor: Callable[[int], float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.net = net
        self.make_optimizer = make_optimizer
        self.lr_factor = lr_factor
        self.seed = seed
        for stage in ("train", "val", "test"):
            setattr(self, f"{stage}_loss", Mean())
            # without range checks, which would make an accelerator wait at every step
            setattr(self, f"{stage}_acc", MulticlassAccuracy(num_classes, average="micro", validate_args=False))
        self.gradient_norm = Mean()
        self._logged_epoch: int | None = None
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        for metric in self.epoch_metrics:
            metric.persistent(True)  # so that a checkpoint in mid-epoch holds the epoch so far

    @property
    def epoch_metrics(self) -> tuple[Metric, ...]:
        """What a training epoch accumulates."""
        return self.train_loss, self.train_acc, self.gradient_norm

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.net.parameters())
        if self.lr_factor is None:
            return optimizer
        return [optimizer], [{"scheduler": LambdaLR(optimizer, self.lr_factor), "interval": "step"}]

    def on_train_epoch_start(self) -> None:  # not called where a run resumes in mid-epoch
        for metric in self.epoch_metrics:
            metric.reset()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # torch.manual_seed takes a millisecond to see that other devices are not there
        seed_generators = torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed
        seed_generators(rng.key(self.seed, "step", self.global_step, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, _ = self._loss_and_logits("train", batch)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self._logged_epoch != self.current_epoch:  # once: Lightning computes what it was given when the epoch ends
            self._logged_epoch = self.current_epoch
            metrics: dict[str, Any] = {"train/loss": self.train_loss, "train/acc": self.train_acc}
            self.log_dict({**metrics, "gradient norm": self.gradient_norm}, on_step=False, on_epoch=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [parameter.grad for parameter in self.net.parameters() if parameter.grad is not None]
        self.gradient_norm.update(torch.nn.utils.get_total_norm(gradients))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._loss_and_logits("val", batch)
        self.log_dict({"val/loss": self.val_loss, "val/acc": self.val_acc})

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        _, logits = self._loss_and_logits("test", batch)
        self.confusion.update(logits, batch.labels)
        self.log_dict({"test/loss": self.test_loss, "test/acc": self.test_acc})

    def _loss_and_logits(self, stage: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch's mean loss and its logits; both are counted in the stage's metrics."""
        logits = self.net(batch.images)
        if not len(batch.labels):  # this process has no share of a last, small batch
            return logits.sum(), logits
        loss = F.cross_entropy(logits, batch.labels)
        mean_loss, accuracy = getattr(self, f"{stage}_loss"), getattr(self, f"{stage}_acc")
        mean_loss.update(loss.detach(), len(batch.labels))
        accuracy.update(logits, batch.labels)
        return loss, logits
