"""Callbacks that end a training early: on divergence, on a signal and, if asked to, when it is stuck at chance."""

import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from vitbn.training.callbacks.metrics_file import MetricsFile, mean_loss
from vitbn.training.outcome import Diverged, Interruption, Signals


def any_process(trainer: pl.Trainer, wish: bool) -> bool:
    """Whether any of the run's processes wishes what all of them have to do together."""
    return wish if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(wish, all=False)


def can_continue_from(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a run can be continued exactly from a checkpoint at this end of a training batch.

    Not where gradients wait for further batches, nor between the batch and a validation or the end of the epoch, which
    Lightning would leave out.
    """
    done, every = batch_idx + 1, trainer.check_val_every_n_epoch
    validates = trainer.enable_validation and (every is None or (trainer.current_epoch + 1) % every == 0)
    ends = trainer.is_last_batch or trainer.should_stop or trainer.global_step == trainer.max_steps
    return not (
        ends or done % trainer.accumulate_grad_batches or (validates and done % (trainer.val_check_batch or 1) == 0)
    )


def chance_level(labels: Tensor) -> float:
    """Accuracy that always answering the most frequent class reaches by luck: its share plus 3 standard errors."""
    share = labels.bincount().max().item() / len(labels)
    return share + 3 * math.sqrt(share * (1 - share) / len(labels))


class StopOnDivergence(Callback):
    """Raises Diverged with the first step whose loss is NaN or infinite."""

    def __init__(self) -> None:
        self._first_bad_step = torch.tensor(0)  # 0: none yet

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = mean_loss(trainer, outputs)
        known = self._first_bad_step.to(loss.device)
        step = trainer.global_step + (
            not trainer.is_last_batch and (batch_idx + 1) % trainer.accumulate_grad_batches > 0
        )
        self._first_bad_step = torch.where(loss.isfinite() | (known > 0), known, step)
        # asking makes an accelerator wait, so it is asked once per epoch
        if (loss.device.type == "cpu" or trainer.is_last_batch) and (first := int(self._first_bad_step)):
            raise Diverged(first)


def require_finite(net: nn.Module, validation: Any, step: int) -> None:
    """Raises Diverged if the last step, whose loss was that before it, left weights or val/loss that are not finite."""
    if not all(bool(parameter.isfinite().all()) for parameter in net.parameters()):
        raise Diverged(step, "weights")
    if validation is not None and not math.isfinite(validation):
        raise Diverged(step, "val/loss")


class StopOnSignal(Callback):
    """After a signal: a checkpoint at the end of the step, or the epoch's own if validation is under way.

    Lightning answers Slurm's requeue signal by saving in the middle of a step, from where no run can be continued
    exactly: its handler is called at the end of the step instead.
    """

    def __init__(self, signals: Signals, last: Path | None) -> None:
        self.signals = signals
        self.last = last  # None: no checkpoints are wanted
        self._requeue: Callable[[], None] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        handler = signal.getsignal(signal.SIGUSR1)
        if callable(handler):
            signal.signal(signal.SIGUSR1, lambda *args: setattr(self, "_requeue", lambda: handler(*args)))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not can_continue_from(trainer, batch_idx):
            return
        if any_process(trainer, self._requeue is not None):
            if self._requeue:
                self._requeue()
            self._requeue = None
            self._save(trainer)
            for path in Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"):
                path.unlink(missing_ok=True)  # last.ckpt holds the same; trainer.test would load this one
        if any_process(trainer, self.signals.received is not None):
            self._save(trainer)
            raise Interruption

    def _save(self, trainer: pl.Trainer) -> None:
        if self.last:
            trainer.save_checkpoint(self.last)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if any_process(trainer, self.signals.received is not None):
            raise Interruption


class StopAtStep(Callback):
    """Ends a training after so many optimizer steps, with a validation.

    Lightning's own `max_steps` leads a training that is resumed after an epoch back into that epoch.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


class StayStopped(Callback):
    """A training that was to stop when its checkpoint was written does not go on when it is resumed."""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["should_stop"] = trainer.should_stop

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        trainer.should_stop = checkpoint.get("should_stop", False)


class StopWhenStuck(Callback):
    """Ends a training whose val/acc stays at chance level for `epochs` validated epochs in a row."""

    state_key = "stuck"

    def __init__(self, chance: float, epochs: int, metrics_file: MetricsFile) -> None:
        self.chance = chance
        self.epochs = epochs
        self.metrics_file = metrics_file
        self.epochs_at_chance = 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        accuracy = self.metrics_file.rows[-1]["val/acc"]
        if accuracy is None:
            return
        self.epochs_at_chance = self.epochs_at_chance + 1 if accuracy <= self.chance else 0
        trainer.should_stop = trainer.should_stop or self.epochs_at_chance >= self.epochs

    def state_dict(self) -> dict[str, int]:
        return {"epochs_at_chance": self.epochs_at_chance}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.epochs_at_chance = state_dict["epochs_at_chance"]
