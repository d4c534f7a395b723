"""Callbacks that end a training early: on divergence, on a signal and, if asked to, when it is stuck at chance."""

import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from vitbn.training.callbacks.metrics_file import mean_loss
from vitbn.training.outcome import Diverged, Interruption, Signals


def any_process(trainer: pl.Trainer, wish: bool) -> bool:
    """Whether any of the run's processes wishes what all of them have to do together."""
    return wish if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(wish, all=False)


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
        self._first_bad_step = torch.where(loss.isfinite() | (known > 0), known, trainer.global_step)
        # asking makes an accelerator wait, so it is asked once per epoch
        if (loss.device.type == "cpu" or trainer.is_last_batch) and (step := int(self._first_bad_step)):
            raise Diverged(step)


class StopOnSignal(Callback):
    """After a signal: a checkpoint at the end of the step, or the epoch's own if validation is under way.

    Lightning answers Slurm's requeue signal by saving in the middle of a step, from where no run can be continued
    exactly: its handler is called at the end of the step instead.
    """

    def __init__(self, signals: Signals, last: Path) -> None:
        self.signals = signals
        self.last = last
        self._requeue: Callable[[], None] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        handler = signal.getsignal(signal.SIGUSR1)
        if callable(handler):
            signal.signal(signal.SIGUSR1, lambda *args: setattr(self, "_requeue", lambda: handler(*args)))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning cannot continue from between the last step and its validation: the epoch is ended first
        if trainer.is_last_batch:
            return
        if any_process(trainer, self._requeue is not None):
            if self._requeue:
                self._requeue()
            self._requeue = None
            trainer.save_checkpoint(self.last)
            for path in Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"):
                path.unlink(missing_ok=True)  # last.ckpt holds the same; trainer.test would load this one
        if any_process(trainer, self.signals.received is not None):
            trainer.save_checkpoint(self.last)
            raise Interruption

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if any_process(trainer, self.signals.received is not None):
            raise Interruption


class StopWhenStuck(Callback):
    """Ends a training whose val/acc stays at chance level for `epochs` epochs in a row."""

    state_key = "stuck"

    def __init__(self, chance: float, epochs: int) -> None:
        self.chance = chance
        self.epochs = epochs
        self.epochs_at_chance = 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        at_chance = trainer.callback_metrics["val/acc"].item() <= self.chance
        self.epochs_at_chance = self.epochs_at_chance + 1 if at_chance else 0
        trainer.should_stop = trainer.should_stop or self.epochs_at_chance >= self.epochs

    def state_dict(self) -> dict[str, int]:
        return {"epochs_at_chance": self.epochs_at_chance}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.epochs_at_chance = state_dict["epochs_at_chance"]
