"""When Lightning writes checkpoints, and how: as `vitbn.store.checkpoint_file` does."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from vitbn.store import checkpoint_file as sealed
from vitbn.training.callbacks.stopping import agreed


class DurableCheckpointIO(CheckpointIO):
    """Sealed files for Lightning."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """The whole checkpoint, or the file as it was."""
        sealed.save(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """InputError for a file that holds code or is no checkpoint."""
        return sealed.load(path, map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete the file if it is there."""
        Path(path).unlink(missing_ok=True)


def callbacks(folder: Path, every_minutes: float) -> list[Callback]:
    """best.ckpt by val/acc; last.ckpt at the end of every epoch and every so many minutes."""
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False, "save_on_train_epoch_end": True}
    return [
        ModelCheckpoint(**common, filename="best", monitor="val/acc", mode="max"),
        ModelCheckpoint(**common, filename="last"),
        Timed(folder / sealed.LAST, 60 * every_minutes),
    ]


class Timed(Callback):
    """last.ckpt every so many seconds, except after the last step of an epoch, whose own checkpoint is due anyway.

    Lightning cannot continue from between the last step and its validation.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds, self._written = path, seconds, time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last = batch_idx + 1 == trainer.num_training_batches
        if not last and agreed(trainer, time.monotonic() - self._written > self.seconds):
            trainer.save_checkpoint(self.path)
            self._written = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._written = time.monotonic()
