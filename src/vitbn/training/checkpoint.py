"""Checkpoints that are whole or not there, and that load without running code."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from vitbn import durable


class DurableCheckpointIO(CheckpointIO):
    """Writes through a temporary file in the same folder, fsync and rename; loads weights and plain data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """The whole checkpoint, or the file as it was."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        durable.write(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Under torch's safe loading: a file that holds code is refused."""
        return torch.load(path, map_location=map_location, weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete the file if it is there."""
        Path(path).unlink(missing_ok=True)


def callbacks(folder: Path, every_minutes: float) -> list[ModelCheckpoint]:
    """best.ckpt by val/acc; last.ckpt at the end of every epoch and every so many minutes."""
    common: dict[str, Any] = {"dirpath": folder / "checkpoints", "enable_version_counter": False}
    return [
        ModelCheckpoint(**common, filename="best", monitor="val/acc", mode="max", save_on_train_epoch_end=True),
        ModelCheckpoint(**common, filename="last", save_on_train_epoch_end=True),
        ModelCheckpoint(**common, filename="last", train_time_interval=timedelta(minutes=every_minutes)),
    ]
