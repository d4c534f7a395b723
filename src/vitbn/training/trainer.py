"""Lightning's Trainer and the callbacks of one's own, from the configuration that was typed."""

import logging
import os
import signal
import sys
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import profilers
from pytorch_lightning.callbacks import Callback, ProgressBar, WeightAveraging
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment
from torch import nn

from vitbn.errors import InputError
from vitbn.store.run import Run
from vitbn.training.callbacks.checkpoint import ChecksummedCheckpointIO
from vitbn.training.ddp import SharedBatchStrategy
from vitbn.training.numerics import cpu_multiplies_bfloat16

log = logging.getLogger("vitbn")

# What stands behind a flag that is not typed, where it is not Lightning's default
DEFAULTS = {"num_sanity_val_steps": 0, "enable_model_summary": False, "log_every_n_steps": 1}
PROFILERS = {
    "simple": profilers.SimpleProfiler,
    "advanced": profilers.AdvancedProfiler,
    "pytorch": profilers.PyTorchProfiler,
}


def make_trainer(run: Run, net: nn.Module, callbacks: list[Callback], loggers: list[Logger]) -> pl.Trainer:
    """The Trainer of `net` with the run's flags; InputError for what Lightning does not put together."""
    has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
    flags = DEFAULTS | {"enable_progress_bar": has_bar} | run.config["trainer"]
    del flags["sync_batchnorm"]  # ours pools unequal shares, too
    flags.pop("max_steps", None)  # StopAtStep
    plugins = [_made("trainer.plugins", plugin) for plugin in flags.pop("plugins", ())]
    if flags["devices"] > 1:
        flags["strategy"] = SharedBatchStrategy()
    else:  # Lightning would take the variables of torchrun, Slurm, MPI and others for those of this run
        flags["strategy"] = "auto"
        plugins.append(SlurmJob() if SLURMEnvironment.job_id() is not None else LightningEnvironment())
    falls_back = flags["precision"] == "bf16-mixed" and on_cpu(flags) and not cpu_multiplies_bfloat16()
    if falls_back:
        flags["precision"] = "32-true"
    profiler = flags.pop("profiler", None)
    if isinstance(profiler, dict):
        profiler = _made("trainer.profiler", profiler)
    elif profiler:
        profiler = PROFILERS[profiler](dirpath=run.folder, filename="profile")
    try:
        trainer = pl.Trainer(
            **flags,
            max_epochs=run.config["epochs"],
            logger=loggers or False,
            callbacks=callbacks,
            plugins=[ChecksummedCheckpointIO(net), *plugins],
            profiler=profiler,
            default_root_dir=run.folder,
            use_distributed_sampler=False,
        )
    except Exception as error:  # of many classes
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error
    if falls_back and trainer.is_global_zero:
        log.warning("trainer.precision=bf16-mixed: this processor has no products of bfloat16; computed in float32")
    return trainer


class SlurmJob(SLURMEnvironment):
    """One process, which Lightning's handler requeues with its Slurm job.

    The job's tasks are none of the run's business: each may train a seed, or eight tasks may mean eight cores.
    """

    def __init__(self) -> None:
        ClusterEnvironment.__init__(self)  # Slurm's refuses several tasks
        self.auto_requeue, self.requeue_signal = True, signal.SIGUSR1

    def world_size(self) -> int:
        """One, as all ranks are 0."""
        return 1

    def global_rank(self) -> int:
        return 0

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return 0

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Accept whatever the job has asked Slurm for."""


def shows_bar(run: Run) -> bool:
    """Whether the training draws a progress bar; several at once in one terminal would overwrite each other."""
    alone = "VITBN_PARALLEL" not in os.environ
    return run.config["trainer"].get("enable_progress_bar", sys.stdout.isatty() and alone)


def own_callbacks(config: dict[str, Any]) -> list[Callback]:
    """The callbacks of the group `callbacks`. It names classes to import, so pass none that a stranger's file holds."""
    callbacks = []
    for name, options in config.items():
        if options is not None:
            callbacks.append(_made(f"callbacks.{name}", options))
            if not isinstance(callbacks[-1], Callback):
                raise InputError(f"callbacks.{name}: {options['_target_']} is no callback of Lightning's")
    return callbacks


def _made(key: str, config: dict[str, Any]) -> Any:
    """What `_target_` names, made of the other keys; InputError names the key that was typed."""
    from hydra.utils import instantiate

    try:
        return instantiate(config, _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        place = "; Python looks for modules in PYTHONPATH" if isinstance(cause, ImportError) else ""
        raise InputError(f"{key}: {' '.join(str(cause).split())}{place}") from error


def take_averaged_weights(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """After fit: the weights that were validated. Lightning leaves it out where a resumed training was at its end."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging):
            callback.on_train_end(trainer, module)


def on_cpu(trainer: dict[str, Any]) -> bool:
    """Whether a run with these flags computes on the processor."""
    return trainer["accelerator"] == "cpu" or not torch.accelerator.is_available()


def require_devices(trainer: dict[str, Any]) -> None:
    """InputError unless the machine has the devices."""
    present = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    wanted = trainer["accelerator"]
    if wanted not in ("auto", "cpu") and not present:
        raise InputError(
            f"trainer.accelerator={wanted}: no GPU here; use trainer=cpu, or trainer=default for what is there"
        )
    if str(trainer.get("precision")).startswith("16") and on_cpu(trainer):
        raise InputError(
            f"trainer.precision={trainer['precision']}: needs a GPU; on a CPU choose bf16-mixed or 32-true"
        )
    if wanted != "cpu" and 0 < present < trainer["devices"]:
        remedy = f"{present} GPU here; trainer=cpu would take processes instead"
        raise InputError(f"trainer.devices={trainer['devices']}: {remedy}")


def steps_per_epoch(trainer: dict[str, Any], batches: int) -> int:
    """Optimizer steps of an epoch of so many batches, as Lightning counts them."""
    limit = trainer.get("overfit_batches") or trainer.get("limit_train_batches", 1.0)
    limited = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return -(-limited // trainer.get("accumulate_grad_batches", 1))
