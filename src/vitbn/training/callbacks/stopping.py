"""Callbacks that end a training early: on divergence, on a signal and, if asked to, when it is stuck."""

import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from vitbn.training.callbacks.metrics import MetricsFile
from vitbn.training.outcome import Diverged, Interruption, Signals


def agreed(trainer: pl.Trainer, asked: bool) -> bool:
    """Whether any of the run's processes asks for something that all of them have to do together."""
    return asked if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(asked, all=False)


def chance_level(labels: Tensor) -> float:
    """Accuracy that always answering the most frequent class reaches by luck: its share plus 3 standard errors."""
    share = labels.bincount().max().item() / len(labels)
    return share + 3 * math.sqrt(share * (1 - share) / len(labels))


class Divergence(Callback):
    """Raises Diverged with the first step whose loss is NaN or infinite."""

    def __init__(self, metrics: MetricsFile) -> None:
        self.metrics = metrics
        self._first_bad: Tensor | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        losses = outputs["loss"]  # of the steps since the last call, the newest at the end
        never = torch.full((), torch.iinfo(torch.int64).max, device=losses.device)
        if self._first_bad is None:
            self._first_bad = never
        steps = trainer.global_step - torch.arange(len(losses) - 1, -1, -1, device=losses.device)
        self._first_bad = torch.minimum(self._first_bad, torch.where(losses.isfinite(), never, steps).min())
        # asking makes an accelerator wait
        if losses.device.type == "cpu" or batch_idx + 1 == trainer.num_training_batches:
            self.check()

    def check(self) -> None:
        """Ask the device."""
        if self._first_bad is not None and (step := int(self._first_bad)) < torch.iinfo(torch.int64).max:
            raise Diverged(step, self.metrics.rows)


class StopOnSignal(Callback):
    """After a signal: a checkpoint at the end of the step, or the epoch's own if validation is under way.

    Slurm's requeue signal is Lightning's to answer, but its handler would save in the middle of a step, from where
    no run can be continued exactly: it is called at the end of the step instead.
    """

    def __init__(self, signals: Signals, last: Path) -> None:
        self.signals, self.last = signals, last
        self._requeue: Callable[[], None] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        answer = signal.getsignal(signal.SIGUSR1)
        if callable(answer):
            signal.signal(signal.SIGUSR1, lambda *received: setattr(self, "_requeue", lambda: answer(*received)))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning cannot continue from between the last step and its validation: the epoch is ended first
        if batch_idx + 1 == trainer.num_training_batches:
            return
        if agreed(trainer, self._requeue is not None):
            if self._requeue:
                self._requeue()
            self._requeue = None
            trainer.save_checkpoint(self.last)
            for path in Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"):
                path.unlink(
                    missing_ok=True
                )  # last.ckpt says the same, and Lightning would load this one into trainer.test
        if agreed(trainer, self.signals.received is not None):
            trainer.save_checkpoint(self.last)
            raise Interruption

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if agreed(trainer, self.signals.received is not None):
            raise Interruption


class Stuck(Callback):
    """Ends a training whose val/acc stays at chance level for `epochs` epochs in a row."""

    def __init__(self, chance: float, epochs: int) -> None:
        self.chance, self.epochs, self.count = chance, epochs, 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        at_chance = trainer.callback_metrics["val/acc"].item() <= self.chance
        self.count = self.count + 1 if at_chance else 0
        trainer.should_stop = trainer.should_stop or self.count >= self.epochs

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.count = state_dict["count"]
