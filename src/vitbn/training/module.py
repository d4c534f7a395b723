"""The LightningModule: any network that maps images to logits, trained by cross-entropy."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from vitbn import rng
from vitbn.data.batches import Batch
from vitbn.errors import InputError
from vitbn.norms.batch import but_in_float32
from vitbn.norms.table import scheduled_norms, set_progress
from vitbn.training.schedule import SchedulerConfig


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


class Mean(Metric):
    """Weighted mean. torchmetrics' MeanMetric makes an accelerator wait at every step to look for NaN, and forgets
    the weights when told not to (1.9.0)."""

    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", torch.tensor(0), dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any) -> nn.Module:
        return super()._apply(but_in_float32(fn), *args)  # a sum in bfloat16 would soon stop growing

    def update(self, value: Tensor, weight: int | Tensor = 1) -> None:
        self.total += at_least_float32(value) * weight
        self.weight += weight

    def compute(self) -> Tensor:
        return self.total / self.weight


class Classifier(pl.LightningModule):
    """Logs loss and top-1 accuracy of train, val and test as `<stage>/loss` and `<stage>/acc`, per epoch.

    `make_schedulers` returns what Lightning calls scheduler configurations. `mixup` and `cutmix` are the alpha of
    torchvision's transforms of a training batch, 0 for none; with both, each batch takes one of them by chance.
    `max_steps`: after which the training ends, if before its last epoch does; -1 for never.
    Every step draws from generators seeded with (seed, step, rank): a resumed run draws the same.
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
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        make_schedulers: Callable[[torch.optim.Optimizer], list[SchedulerConfig]] = lambda optimizer: [],
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        max_steps: int = -1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.net = net
        self.make_optimizer = make_optimizer
        self.make_schedulers = make_schedulers
        self.lr: float | None = None  # of Lightning's LearningRateFinder, in place of the optimizer's own
        self.label_smoothing = label_smoothing
        self.mix = make_mix(num_classes, mixup=mixup, cutmix=cutmix)
        self.max_steps = max_steps
        self.seed = seed
        self.has_scheduled_norms = bool(scheduled_norms(net))
        for stage in ("train", "val", "test"):
            setattr(self, f"{stage}_loss", Mean())
            # without range checks, which would make an accelerator wait at every step
            setattr(self, f"{stage}_acc", MulticlassAccuracy(num_classes, average="micro", validate_args=False))
        self.gradient_norm = Mean()
        self._logged_epoch: int | None = None
        self._monitored: Tensor | None = None  # what a plateau schedule has seen last
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
        optimizer = self.make_optimizer(self.net)
        if self.lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = self.lr
        return [optimizer], self.make_schedulers(optimizer)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        # Lightning takes a monitored scheduler's step after the epoch's checkpoint, and a resumed run never would
        if metric is None:
            super().lr_scheduler_step(scheduler, metric)

    def on_train_epoch_end(self) -> None:
        measured = self.trainer.callback_metrics
        validated = (self.trainer.current_epoch + 1) % (self.trainer.check_val_every_n_epoch or 1) == 0
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):
                value = measured.get(str(config.monitor))
                if value is None and validated:
                    raise InputError(
                        f"schedule.monitor={config.monitor}: is not measured; choose from {', '.join(measured)}"
                    )
                if value is not None and value is not self._monitored:  # Lightning still shows that of earlier epochs
                    config.scheduler.step(value.item())
                self._monitored = value

    def on_train_start(self) -> None:
        self._logged_epoch = None  # a range test of learning rates has been in this epoch before

    def on_train_epoch_start(self) -> None:  # not called where a run resumes in mid-epoch
        for metric in self.epoch_metrics:
            metric.reset()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.seed_generators(batch_idx)

    def seed_generators(self, batch_idx: int) -> None:
        """Seed torch's generators for a batch of this epoch."""
        # torch.manual_seed takes a millisecond to see that other devices are not there
        seed_generators = torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed
        # the step, unless several batches make one
        number = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
        seed_generators(rng.key(self.seed, "step", number, self.global_rank))
        if self.has_scheduled_norms:
            set_progress(self.net, self._progress(number))

    def _progress(self, number: int) -> float:
        """The share of the whole training that is behind batch `number`; 0 where it has no end (lr_find's search)."""
        if self.trainer.max_epochs == -1:
            return 0.0
        batches = int(self.trainer.num_training_batches) * (self.trainer.max_epochs or 1)
        limit = self.max_steps * self.trainer.accumulate_grad_batches
        return number / (min(batches, limit) if limit > 0 else batches)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, _ = self._loss_and_logits("train", self.mixed(batch))
        return loss

    def mixed(self, batch: Batch) -> Batch:
        """The batch as it is trained on, with MixUp and CutMix."""
        return Batch(*self.mix(*batch)) if self.mix is not None and len(batch.labels) else batch

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self._logged_epoch != self.current_epoch:  # once: Lightning computes what it was given when the epoch ends
            self._logged_epoch = self.current_epoch
            metrics: dict[str, Any] = {"train/loss": self.train_loss, "train/acc": self.train_acc}
            self.log_dict({**metrics, "gradient norm": self.gradient_norm}, on_step=False, on_epoch=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [at_least_float32(p.grad) for p in self.net.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) / gradient_scale(self.trainer, optimizer)
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            self.gradient_norm.update(norm)
        else:  # of 16-mixed: steps that overflow are left out
            self.gradient_norm.update(norm.nan_to_num(0.0, 0.0, 0.0), norm.isfinite())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with torch.compiler.set_stance("force_eager"):  # code for evaluation takes longer to compile than it saves
            self._loss_and_logits("val", batch)
        self.log_dict({"val/loss": self.val_loss, "val/acc": self.val_acc})

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        with torch.compiler.set_stance("force_eager"):
            _, logits = self._loss_and_logits("test", batch)
        self.confusion.update(logits, batch.labels)
        self.log_dict({"test/loss": self.test_loss, "test/acc": self.test_acc})

    def _loss_and_logits(self, stage: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch's mean loss and its logits, in float32 or better; both are counted in the stage's metrics."""
        logits = at_least_float32(self.net(batch.images))
        labels = batch.labels
        if not len(labels):  # this process has no share of a last, small batch
            return logits.sum(), logits
        if labels.is_floating_point():  # mixed: a row of shares per image
            labels = labels.to(logits.dtype)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing if stage == "train" else 0.0)
        mean_loss, accuracy = getattr(self, f"{stage}_loss"), getattr(self, f"{stage}_acc")
        mean_loss.update(loss.detach(), len(labels))
        accuracy.update(logits, labels.argmax(1) if labels.is_floating_point() else labels)
        return loss, logits


def gradient_scale(trainer: pl.Trainer, optimizer: torch.optim.Optimizer) -> float:
    """What the gradients before an optimizer's step are still multiplied by: 16-mixed's scale, if it is fused.

    Such an optimizer takes the scale off itself, and torch has no public word for it.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return 1.0
    return scaler.get_scale()


def make_mix(num_classes: int, *, mixup: float, cutmix: float) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """torchvision's MixUp, CutMix, or for every batch one of the two, as in timm; None for neither."""
    if not mixup and not cutmix:
        return None
    from torchvision.transforms import v2

    transforms = [make(alpha=alpha, num_classes=num_classes)
                  for make, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix)) if alpha]  # fmt: skip
    mix: Callable[..., tuple[Tensor, Tensor]] = v2.RandomChoice(transforms)
    return mix
