"""Checkpoints that are whole or not there, that say when they are damaged, and that load without running code.

A file is torch's zip archive, then MARK, then the archive's SHA-256: torch ignores what follows the archive, and
the checksum cannot get lost or be of another version, because one rename puts both in place.
"""

import hashlib
import io
import logging
import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from vitbn import durable
from vitbn.errors import InputError

log = logging.getLogger("vitbn")
MARK = b"vitbn-sha256:"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


def seal(archive: bytes) -> bytes:
    """The archive with its checksum."""
    return archive + MARK + hashlib.sha256(archive).digest()


def is_whole(path: Path) -> bool:
    """Whether the file is what was written."""
    content = path.read_bytes()
    archive, mark = content[: -len(MARK) - 32], content[-len(MARK) - 32 : -32]
    return mark == MARK and hashlib.sha256(archive).digest() == content[-32:]


def newest_whole(folder: Path) -> Path | None:
    """last.ckpt, or the one before if it is damaged, or None; what is damaged is said."""
    for path in (folder / LAST, folder / PREVIOUS):
        if path.exists():
            if is_whole(path):
                return path
            log.warning(f"{path}: damaged (its SHA-256 does not match), going back to the checkpoint before")
    return None


class DurableCheckpointIO(CheckpointIO):
    """Same-folder temporary file, fsync, rename, checksum; the last.ckpt before is kept as previous.ckpt."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """The whole checkpoint, or the file as it was."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        archive = io.BytesIO()
        torch.save(checkpoint, archive)
        if path.name == LAST:
            self._keep(path, path.with_name(PREVIOUS))
        durable.write(path, lambda file: file.write(seal(archive.getvalue())))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Under torch's safe loading; InputError for a file that holds code or is no checkpoint."""
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{path}: refused, not a checkpoint of weights and plain data ({reason})") from None

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete the file if it is there."""
        Path(path).unlink(missing_ok=True)

    @staticmethod
    def _keep(path: Path, previous: Path) -> None:
        """A second name for the file that is about to be replaced; a copy where the file system has no links."""
        if not path.exists() or (previous.exists() and path.samefile(previous)):
            return  # renaming one name of a file to another name of it does nothing and leaves both
        link = previous.with_name(f".{previous.name}.{os.getpid()}.tmp")
        try:
            os.link(path, link)
            os.replace(link, previous)
        except (PermissionError, NotImplementedError):
            durable.write(previous, lambda file: file.write(path.read_bytes()))


def callbacks(folder: Path, every_minutes: float) -> list[Callback]:
    """best.ckpt by val/acc; last.ckpt at the end of every epoch and every so many minutes."""
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False, "save_on_train_epoch_end": True}
    return [
        ModelCheckpoint(**common, filename="best", monitor="val/acc", mode="max"),
        ModelCheckpoint(**common, filename="last"),
        Timed(folder / LAST, 60 * every_minutes),
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
        if time.monotonic() - self._written > self.seconds and batch_idx + 1 < trainer.num_training_batches:
            trainer.save_checkpoint(self.path)
            self._written = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._written = time.monotonic()
