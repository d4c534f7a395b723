"""A W&B run for a run of ours, also if it was interrupted: its ID stays in the run's folder."""

import os
import secrets
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger

from vitbn.errors import InputError
from vitbn.store import atomic
from vitbn.store.run import Run
from vitbn.training.loggers.guard import SECONDS_WITHOUT_SERVER, is_first_process


class WandB(WandbLogger):
    """A group per study. `options` are wandb.init's; without a key nobody is asked for one."""

    def __init__(self, run: Run, project: str, offline: bool = False, **options: Any) -> None:
        mode = "offline" if offline else os.environ.get("WANDB_MODE", "online")
        if mode == "online" and not wandb.login(prompt=False):
            raise InputError("no API key; wandb login, WANDB_API_KEY=, or logger.wandb.offline=true")
        if mode != "online":
            self.seconds = SECONDS_WITHOUT_SERVER
        if wandb.run is not None:
            raise InputError("W&B has not finished the run before")
        record = run.folder / "wandb_run_id"
        known = record.read_text().strip() if record.exists() else secrets.token_hex(4)
        if is_first_process():
            atomic.write_text(record, f"{known}\n")
        options = {"name": run.id, "group": run.config["study"], "settings": wandb.Settings(init_timeout=8)} | options
        # `mode` and not Lightning's `offline`, which would hold for all later runs of the process
        super().__init__(project=project, id=known, save_dir=run.folder, mode=mode, **options)
