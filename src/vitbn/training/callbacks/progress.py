"""Progress of a training: a line per epoch, in train.log, too, and a bar in a terminal."""

import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm

from vitbn.training.callbacks.metrics_file import MetricsFile

log = logging.getLogger("vitbn")


class Pace:
    """The time left at the speed since the first batch."""

    def __init__(self) -> None:
        self.batches = 0
        self.started = time.perf_counter()

    def left(self, trainer: pl.Trainer, batches_done: int) -> str | None:
        """Such as 02:05, when so many batches of the epoch are done; None if the end or the speed is not known."""
        epochs_left = (trainer.max_epochs or 0) - trainer.current_epoch
        batches_left = epochs_left * trainer.num_training_batches - batches_done
        if not self.batches or not 0 < batches_left < float("inf"):
            return None
        seconds = (time.perf_counter() - self.started) / self.batches * batches_left
        return str(Tqdm.format_interval(seconds))


class EpochLines(Callback):
    """One line per epoch, of 80 columns, and one that says where a resumed run goes on."""

    def __init__(self, metrics_file: MetricsFile) -> None:
        self.metrics_file = metrics_file
        self.pace: Pace | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.pace is None:
            self.pace = Pace()
            if trainer.global_step and trainer.is_global_zero:
                epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
                log.info(f"goes on at {epoch}, step {batch_idx + 1} of {trainer.num_training_batches}")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.pace:
            self.pace.batches += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = {name: value for name, value in self.metrics_file.rows[-1].items() if value is not None}
        words = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        words += [f"{name} {values[name]:.4f}" for name in ("train/loss", "val/loss") if name in values]
        words += [f"val/acc {values['val/acc']:.2%}"] if "val/acc" in values else []
        if self.pace:
            left = self.pace.left(trainer, trainer.num_training_batches)  # type: ignore[arg-type]
            words += [f"{left} left"] if left else []
        if trainer.is_global_zero:
            log.info("  ".join(words))


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, cut to the terminal's width: epochs counted from 1, the loss, the time left for the run."""

    BAR_FORMAT = "{desc} |{bar}| {n_fmt}/{total_fmt}{postfix}"

    def __init__(self, lines: EpochLines) -> None:
        super().__init__(refresh_rate=10)
        self._lines = lines
        self._step: tuple[Any, int] | None = None  # its output and its number in the epoch

    def init_test_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)  # what it measures is said when the run ends

    def init_train_tqdm(self) -> Tqdm:
        bar = super().init_train_tqdm()
        bar.leave = False  # the lines of the epochs stay
        return bar

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        batches = self.total_train_batches  # inf where nobody knows
        self.train_progress_bar.reset(int(batches) if batches < float("inf") else None)
        self.train_progress_bar.set_description_str(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._step = outputs, batch_idx
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        if self._step:
            outputs, batch_idx = self._step
            shown["loss"] = f"{outputs['loss'].item() * trainer.accumulate_grad_batches:.3f}"
            shown["left"] = (self._lines.pace and self._lines.pace.left(trainer, batch_idx + 1)) or "00:00"
        if (accuracy := trainer.callback_metrics.get("val/acc")) is not None:
            shown["val/acc"] = f"{accuracy:.2%}"
        return shown
