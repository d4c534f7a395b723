"""The project's own training as an arm: what train.py calls, so that whatever makes it faster shows here."""

import contextlib
import csv
import io
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from vitbench.runner import Stopwatch, Turn, require_compiled
from vitbn.config import compose as config
from vitbn.config.checks import check
from vitbn.config.messages import one_line
from vitbn.data.sources import SOURCES
from vitbn.data.splits import Source
from vitbn.errors import InputError
from vitbn.store.run import Run
from vitbn.training.outcome import Signals
from vitbn.training.train import train

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ("train/loss", "val/loss", "val/acc")


class VitbnArm:
    """Epochs as `python train.py KEY=VALUE…` trains them, on images in memory.

    The clock runs during Trainer.fit: data, training, validation, logging, checkpoints.
    """

    def __init__(self, source: Source, *, overrides: Iterable[str], epochs: int = 1, compiled: bool = False) -> None:
        self.source = source
        self.epochs = epochs
        self.compiled = compiled
        self.overrides = [*overrides, f"epochs={epochs}", f"compile={str(compiled).lower()}", "data.name=in-memory"]

    def turn(self, number: int, watch: Stopwatch) -> Turn:
        """A fresh run with seed `number`; the figures are those after the first epoch, as of the other arms."""
        SOURCES["in-memory"] = lambda root: self.source
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            run = compose_run([*self.overrides, f"runs={folder}", f"seed={number}"])
            if self.compiled:
                stack.enter_context(require_compiled("ours"))
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            run.begin()
            train(run, FitTimer(watch))
            with open(run.folder / "metrics.csv") as file:
                first_epoch = next(csv.DictReader(file))
        return Turn(units=self.epochs, figures={name: float(first_epoch[name]) for name in FIGURES})


class FitTimer(Signals):
    """Times the part of a training during which it answers signals itself: Trainer.fit."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self.watch = watch

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """As Signals, with the watch running."""
        with super().deferred(), self.watch:
            yield


def compose_run(overrides: Iterable[str]) -> Run:
    """The run that train.py would make of these overrides; InputError in one line as there."""
    from hydra.errors import CompactHydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        cfg = config.to_plain_dict(config.compose_config(list(overrides)))
        check(cfg)
    except (CompactHydraException, OmegaConfBaseException) as error:
        raise InputError(one_line(error)) from None
    return Run(cfg)
