"""What a resumed run cannot keep equal: threads, versions and hardware of each of its parts."""

import logging
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from vitbn.training.fingerprint import environment

log = logging.getLogger("vitbn")


class EnvironmentOfParts(Callback):
    """Checkpoints say in which environment each part was trained; a run resumed in another one says so in one line."""

    def __init__(self) -> None:
        self.parts: list[dict[str, Any]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.parts = self.parts or [_part(trainer, 0)]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["environments"] = self.parts

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        before = checkpoint.get("environments")
        if not before:  # written by an earlier version
            return
        now, last = _part(trainer, checkpoint["global_step"]), before[-1]
        changes = [
            f"{name} {last[name]} -> {now[name]}" for name in now if name != "from_step" and last[name] != now[name]
        ]
        self.parts = [*before, now] if changes else list(before)
        if changes and trainer.is_global_zero:
            log.warning(
                f"{trainer.default_root_dir}: goes on after step {now['from_step']} with another {', '.join(changes)}: "
                "last digits may differ from those of an uninterrupted run"
            )

    def recorded(self) -> dict[str, Any]:
        """The entry of result.json; nothing for a run whose parts are alike."""
        return {"parts": self.parts} if len(self.parts) > 1 else {}


def _part(trainer: pl.Trainer, step: int) -> dict[str, Any]:
    """A part of a run that begins after a step, in the environment of now."""
    now = environment(trainer.strategy.root_device, trainer.world_size)
    return {"from_step": step, "hardware": now["hardware"], **now["versions"]}
