"""The loggers of a run, from its configuration; one that cannot be had is a warning and never costs a training."""

import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

from hydra.utils import instantiate
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger

from vitbn.errors import InputError
from vitbn.store.labels import flatten
from vitbn.store.plan import hyperparameters
from vitbn.store.run import Run
from vitbn.training.loggers.files import EventFiles
from vitbn.training.loggers.guard import Guard

CALLED_BY_LIGHTNING = ("log_hyperparams", "log_metrics", "log_graph", "save", "after_save_checkpoint", "finalize")
ENVIRONMENT = {  # unless the user says otherwise: nobody is told of a training, no server is waited for for minutes
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "WANDB_ERROR_REPORTING": "false",
}
EXTRAS = ("mlflow", "wandb")


@contextmanager
def open_loggers(run: Run) -> Iterator[list[Logger]]:
    """The loggers the run asks for, without those that cannot be had; Lightning's stand-in if none is left.

    W&B's run, which its package keeps for the whole process, ends with the block.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    guards = {name: Guard(name) for name in run.config["logger"]}
    made = {name: guard(_make, run.config["logger"][name], run, guard) for name, guard in guards.items()}
    loggers = [logger for logger in made.values() if logger is not None]
    for logger in loggers:  # TensorBoard makes a column of every value: only of those that tell runs apart
        logger.log_hyperparams(hyperparameters(run) if isinstance(logger, EventFiles) else configuration(run))
    exit_code = 1
    try:
        yield loggers or [DummyLogger()]  # callbacks such as LearningRateMonitor insist on a logger
        exit_code = 0
    finally:
        for name, logger in made.items():
            if isinstance(logger, WandbLogger):
                guards[name].timed(sys.modules["wandb"].finish, exit_code)


def configuration(run: Run) -> dict[str, Any]:
    """The run's configuration as people type it, `norm.ffn_in` for example, without the loggers and their keys."""
    values = flatten({key: value for key, value in run.config.items() if key != "logger"})
    return {key: str(list(value)) if isinstance(value, tuple) else value for key, value in values.items()}


def _make(options: dict[str, Any], run: Run, guard: Guard) -> Logger | None:
    """A logger that never raises, and None once it has; its constructor gets the run if it has such a parameter."""
    target = _imported(options["_target_"])
    make = instantiate({**options, "_partial_": True}, _convert_="all")
    if "run" in inspect.signature(target).parameters:
        make = partial(make, run=run)
    guard.seconds = getattr(target, "seconds", guard.seconds)
    logger = guard.timed(make)
    guard.seconds = getattr(logger, "seconds", guard.seconds)
    guard.timed(getattr, logger, "experiment", None)  # made when first asked for, and then kept
    if guard.given_up:
        return None
    for method in CALLED_BY_LIGHTNING:
        setattr(logger, method, partial(guard.timed, getattr(logger, method)))
    return logger


def _imported(path: str) -> Any:
    """The class, however long its package takes to import."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name in EXTRAS:
            raise InputError(f"needs a package that is not installed; pip install -e '.[{error.name}]'") from None
        raise
