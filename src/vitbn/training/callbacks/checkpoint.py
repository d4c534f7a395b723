"""When a training writes checkpoints, and how: whole, checksummed files (`vitbn.store.checkpoint_file`)."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.plugins.io import CheckpointIO
from torch import nn

from vitbn.errors import InputError
from vitbn.store import checkpoint_file
from vitbn.training.callbacks.stopping import any_process, can_continue_from

OF_LIGHTNING = {"pytorch-lightning_version", "epoch", "global_step", "loops", "optimizer_states", "lr_schedulers"}


class ChecksummedCheckpointIO(CheckpointIO):
    """Lightning's checkpoints of the training of `net` as files of `vitbn.store.checkpoint_file`."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """The whole checkpoint, or the file as it was."""
        checkpoint_file.save(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """InputError for a file that holds code, or is of another program or another network."""
        checkpoint = checkpoint_file.load(path, map_location)
        there = checkpoint.get("state_dict")
        ours = {f"net.{name}": value.shape for name, value in self.net.state_dict().items()}
        fits = isinstance(there, dict) and all(getattr(there.get(name), "shape", None) == ours[name] for name in ours)
        if not fits or not checkpoint.keys() >= OF_LIGHTNING:
            raise InputError(f"{path}: not a checkpoint of this training; remove it, and the same command begins anew")
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete the file if it is there."""
        Path(path).unlink(missing_ok=True)


def checkpoint_callbacks(folder: Path, every_minutes: float) -> list[Callback]:
    """best.ckpt by val/acc, where there is any; last.ckpt at the end of every epoch and every so many minutes."""
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False, "save_on_train_epoch_end": True}
    return [
        ModelCheckpoint(**common, filename="best", monitor="val/acc", mode="max"),
        ModelCheckpoint(**common, filename="last"),
        TimedCheckpoint(folder / checkpoint_file.LAST, 60 * every_minutes),
    ]


class TimedCheckpoint(Callback):
    """last.ckpt every so many seconds, where a training can be continued from."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self.seconds = seconds
        self._written = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = time.monotonic() - self._written > self.seconds
        if can_continue_from(trainer, batch_idx) and any_process(trainer, due):
            trainer.save_checkpoint(self.path)
            self._written = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._written = time.monotonic()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        relocate(checkpoint, self.path.parent)


def relocate(checkpoint: dict[str, Any], folder: Path) -> None:
    """Make best.ckpt and last.ckpt of a checkpoint's state those of `folder`.

    Lightning forgets which checkpoint was the best when it finds another folder than the one it saved in: of a moved
    study, or of the shorter run that a longer one goes on from.
    """
    here = folder.resolve()

    def moved(path: str) -> str:
        return str(here / Path(path).name) if path else path

    for state in checkpoint["callbacks"].values():
        if isinstance(state, dict) and Path(str(state.get("dirpath"))).name == here.name:
            state |= {key: moved(value) for key, value in state.items() if key.endswith("_model_path")}
            state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}
            state["dirpath"] = str(here)
