"""Progress of a training: a bar in a terminal, one line per epoch elsewhere."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, RichProgressBar

from vitbn.data.batches import Batch


class Throughput:
    """Images per second between the first and the last count."""

    def __init__(self) -> None:
        self.images = 0
        self.started = time.perf_counter()
        self.last = self.started

    def count(self, trainer: pl.Trainer, batch: Batch) -> None:
        """So many more images are done, in all processes together."""
        self.images += len(batch.labels) * trainer.world_size
        self.last = time.perf_counter()

    def __str__(self) -> str:
        return f"{self.images / max(self.last - self.started, 1e-9):,.0f}"


class ProgressBar(RichProgressBar):
    """Lightning's bar with the current val/acc and the images per second of this epoch."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)
        self._throughput = Throughput()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._throughput = Throughput()
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._throughput.count(trainer, batch)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        accuracy = trainer.callback_metrics.get("val/acc")
        shown = {} if accuracy is None else {"val/acc": f"{accuracy:.2%}"}
        return {**shown, "images/s": str(self._throughput)}


class EpochLines(Callback):
    """One line per epoch, for logs and pipes where a bar cannot redraw itself."""

    def __init__(self) -> None:
        self._throughput = Throughput()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._throughput = Throughput()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._throughput.count(trainer, batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = trainer.callback_metrics
        losses = f"train/loss {values['train/loss']:.4f}  val/loss {values['val/loss']:.4f}"
        if trainer.is_global_zero:
            print(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {losses}  val/acc {values['val/acc']:.2%}  "
                f"{self._throughput} images/s",
                flush=True,
            )
