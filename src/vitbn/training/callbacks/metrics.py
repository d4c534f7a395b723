"""What a run writes while it trains: metrics.csv, the images, gradients and confusion in TensorBoard, progress."""

import csv
import io
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.tensorboard.summary import hparams

from vitbn.data.batches import Batch
from vitbn.store import atomic as durable
from vitbn.training.module import Classifier

COLUMNS = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "lr", "seconds")


def epoch_values(trainer: pl.Trainer, classifier: pl.LightningModule) -> dict[str, torch.Tensor]:
    """train/* and val/* of the epoch that ends: callbacks run before the classifier logs its training metrics."""
    val = {name: trainer.callback_metrics[name] for name in ("val/loss", "val/acc")}
    return {**cast(Classifier, classifier).values("train"), **val}


class MetricsFile(Callback):
    """metrics.csv: one row per finished epoch. The rows travel in the checkpoint, so a resumed run repeats none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._spent = 0.0  # seconds of this epoch before the run was interrupted
        self._started = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        measured = {name: value.item() for name, value in epoch_values(trainer, pl_module).items()}
        lr = cast(Classifier, pl_module).lr
        self.rows.append(
            {"epoch": trainer.current_epoch + 1, **measured, "lr": lr, "seconds": round(self._seconds(), 3)}
        )
        self._spent, self._started = 0.0, time.perf_counter()
        if trainer.is_global_zero:
            self.write()

    def write(self) -> None:
        """The file as the rows say, whatever a run that was killed had left there."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        durable.write_text(self.path, text.getvalue())

    def _seconds(self) -> float:
        return self._spent + time.perf_counter() - self._started

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "spent": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self._spent = list(state_dict["rows"]), state_dict["spent"]


class StepsFile(Callback):
    """steps.csv: the mean training loss of every `every` steps; rewritten at the end of an epoch."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.rows: list[tuple[int, float]] = []
        self._losses: list[torch.Tensor] = []  # stay on the device until they are needed

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.extend(outputs["loss"].unbind())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._collect()
        if not trainer.is_global_zero:
            return
        lines = "".join(f"{step},{loss}\n" for step, loss in self.rows)
        durable.write_text(self.path, "step,train/loss\n" + lines)

    def _collect(self) -> None:
        step = self.rows[-1][0] if self.rows else 0
        while len(self._losses) >= self.every:
            step += self.every
            self.rows.append((step, torch.stack(self._losses[: self.every]).mean().item()))
            del self._losses[: self.every]

    def state_dict(self) -> dict[str, Any]:
        self._collect()
        return {"rows": self.rows, "losses": [loss.item() for loss in self._losses]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [tuple(row) for row in state_dict["rows"]]
        self._losses = [torch.tensor(loss) for loss in state_dict["losses"]]


class Pictures(Callback):
    """TensorBoard: augmented training images, learning rate, the test confusion."""

    def __init__(self, logger: "Events", classes: tuple[str, ...]) -> None:
        self.logger, self.classes = logger, classes

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 0:
            from torchvision.utils import make_grid

            grid = make_grid(batch[0].images[:64], nrow=8, padding=1, pad_value=0.5)
            self.logger.experiment.add_image("augmented training images", grid)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("lr", cast(Classifier, pl_module).lr)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        figure = confusion_figure(cast(Classifier, pl_module).confusion.compute().cpu(), self.classes)
        self.logger.experiment.add_figure("test confusion", figure, trainer.global_step)


def confusion_figure(counts: torch.Tensor, classes: tuple[str, ...]) -> Any:
    """Counts (true, predicted) as a matplotlib figure, shaded by the share of the true class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axes = figure.add_subplot()
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(classes)), yticks=range(len(classes)))
    axes.set_xticklabels(classes, rotation=90 if max(map(len, classes)) > 2 else 0)
    axes.set_yticklabels(classes)
    for i, j in counts.nonzero().tolist():
        color = "white" if share[i, j] > 0.6 else "black"
        axes.text(j, i, str(int(counts[i, j])), ha="center", va="center", fontsize=7, color=color)
    return figure


class Events(TensorBoardLogger):
    """Event files straight in the run's folder, with the swept keys in the HParams tab."""

    def __init__(self, folder: Path, keys: dict[str, Any]) -> None:
        super().__init__(save_dir=folder, name="", version="", default_hp_metric=False)
        self.keys = keys

    @rank_zero_only
    def announce(self) -> None:
        """Tell the HParams tab which keys and metrics belong together, without adding points to their curves."""
        for summary in hparams(self.keys, {"val/acc": 0.0, "val/loss": 0.0, "test/acc": 0.0}):
            self.experiment.file_writer.add_summary(summary)

    def save(self) -> None:
        """Flush; Lightning's own hparams.yaml would say less than the run's config.yaml."""
        self.experiment.flush()


class Progress(RichProgressBar):
    """The bar with the current val/acc and the images per second of this epoch."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)
        self._speed = Speed()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._speed = Speed()
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._speed.count(batch)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        accuracy = trainer.callback_metrics.get("val/acc")
        shown = {} if accuracy is None else {"val/acc": f"{accuracy:.2%}"}
        return {**shown, "images/s": f"{self._speed():,.0f}"}


class EpochLines(Callback):
    """One line per epoch, for logs and pipes where a bar cannot redraw itself."""

    def __init__(self) -> None:
        self._speed = Speed()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._speed = Speed()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._speed.count(batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        m = epoch_values(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        losses = f"train/loss {m['train/loss']:.4f}  val/loss {m['val/loss']:.4f}  val/acc {m['val/acc']:.2%}"
        print(f"{epoch}  {losses}  {self._speed():,.0f} images/s", flush=True)


class Speed:
    """Images per second between the first and the last count."""

    def __init__(self) -> None:
        self.images, self.started = 0, time.perf_counter()
        self.last = self.started

    def count(self, chunk: list[Batch]) -> None:
        """So many more images are done."""
        self.images, self.last = self.images + sum(batch.total for batch in chunk), time.perf_counter()

    def __call__(self) -> float:
        return self.images / max(self.last - self.started, 1e-9)


def progress() -> Callback:
    """A bar for a terminal, lines for anything else."""
    return Progress() if sys.stdout.isatty() else EpochLines()
