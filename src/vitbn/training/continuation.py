"""A run that differs from a finished one in a larger `epochs` alone goes on from that one's checkpoint."""

import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from pytorch_lightning.callbacks import Callback, ProgressBar

from vitbn.errors import InputError
from vitbn.norms.kinds import SCHEDULED, split
from vitbn.store import atomic, checkpoint_file
from vitbn.store.run import Run, read_result
from vitbn.store.yaml_file import read_yaml
from vitbn.training.schedule import same_start
from vitbn.training.trainer import own_callbacks

log = logging.getLogger("vitbn")
LENGTHS = {"max_epochs", "max_steps", "estimated_stepping_batches"}  # of Lightning's Trainer


def checkpoint_to_go_on_from(run: Run, steps_per_epoch: int) -> Path | None:
    """The run's own newest checkpoint, or that of the finished run with the next smaller `epochs`; None: begin anew.

    Of another run it also takes over best.ckpt. Says in one line where the run goes on, or why it does not.
    """
    own = checkpoint_file.latest_valid_checkpoint(run.checkpoints)
    if own is not None and own.name == checkpoint_file.PREVIOUS:  # or the damaged one would become previous.ckpt
        (run.checkpoints / checkpoint_file.LAST).unlink(missing_ok=True)
    if own is not None or run.config["rerun"]:
        return own
    reasons = []
    for donor in shorter_runs(run):
        reason = why_not(donor, run, steps_per_epoch)
        if reason is None:
            best = donor.checkpoints / checkpoint_file.BEST
            if checkpoint_file.is_valid(best):
                atomic.copy(best, run.checkpoints / best.name)
            log.info(f"{run.folder}: goes on from {donor.folder.name}, epochs {donor.config['epochs'] + 1} and later")
            return donor.checkpoints / checkpoint_file.LAST
        reasons.append(f"{donor.folder.name} ({donor.config['epochs']} epochs): {reason}")
    if reasons:
        log.info(f"{run.folder}: begins with epoch 1, it cannot go on from {'; '.join(reasons)}")
    return None


def shorter_runs(run: Run) -> Iterator[Run]:
    """The finished runs of the study that differ in a smaller `epochs` and what follows from it, the longest first."""
    for epochs in range(run.config["epochs"] - 1, 0, -1):
        schedule = {k: epochs if v == run.config["epochs"] else v for k, v in run.config["schedule"].items()}
        same = Run(run.config | {"epochs": epochs})
        follows = Run(run.config | {"epochs": epochs, "schedule": schedule})  # T_max: ${epochs}
        for shorter in dict.fromkeys((same.id, follows.id)):
            donor = same if shorter == same.id else follows
            if (donor.folder / "result.json").is_file():
                yield donor


def why_not(donor: Run, run: Run, steps_per_epoch: int) -> str | None:
    """Why a longer run would not end as if it had been trained in one go; None if it would."""
    epochs, last = donor.config["epochs"], donor.checkpoints / checkpoint_file.LAST
    for callback in map(type, own_callbacks(run.config["callbacks"])):
        if _reads_length(callback):
            return f"{callback.__name__} depends on the number of epochs"
    result = read_result(donor.folder) or {}
    if result.get("status") != "done":
        return f"it is {result.get('status', 'not readable')}"
    if result.get("epochs") != epochs:
        return f"it ended early, after {result.get('epochs')} epochs"
    scheduled = [slot for slot, kind in run.config["norm"].items() if split(kind)[0] in SCHEDULED]
    if scheduled:
        return f"norm.{scheduled[0]} changes with the share of the training that is over"
    if not same_start(
        donor.config["schedule"], run.config["schedule"],
        before_epochs=epochs, epochs=run.config["epochs"], steps_per_epoch=steps_per_epoch,
    ):  # fmt: skip
        return "the schedule's learning rates differ in these epochs"
    if not last.exists():
        return f"its {last.name} was not kept (checkpoint.keep)"
    if not checkpoint_file.is_valid(last):
        return f"its {last.name} is damaged"
    try:
        state = checkpoint_file.load(last)
        if state["global_step"] != epochs * steps_per_epoch or state.get("should_stop"):
            return f"it ended early, after {state['global_step']} steps"
        if read_yaml(donor.folder / "config.yaml")["log_every"] != run.config["log_every"]:
            return "log_every differs"
    except (InputError, OSError, KeyError, TypeError) as error:
        return f"it cannot be read ({error})"
    return None


def _reads_length(callback: type) -> bool:
    """Whether a callback's code, as Lightning's StochasticWeightAveraging, asks how long the training is."""
    if issubclass(callback, ProgressBar):  # which shows it only
        return False
    methods = [method for base in callback.__mro__ for method in vars(base).values() if base is not Callback]
    todo: list[Any] = [getattr(inspect.unwrap(method), "__code__", None) for method in methods if callable(method)]
    while todo:
        if isinstance(code := todo.pop(), CodeType):
            if LENGTHS & {*code.co_names}:
                return True
            todo += code.co_consts  # functions inside of functions
    return False
