"""The project's own training as an arm: what train.py calls, so that whatever makes it faster shows here."""

import contextlib
import csv
import io
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from vitbench.engaged import demanded
from vitbench.runner import Stopwatch, Turn
from vitbn.data import sources
from vitbn.data.splits import Source
from vitbn.errors import InputError
from vitbn.store.run import Run
from vitbn.training.callbacks import checkpoint
from vitbn.training.outcome import Signals
from vitbn.training.train import train

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ("train/loss", "val/loss", "val/acc")


class Ours:
    """Epochs as `python train.py KEY=VALUE…` trains them, on images given instead of named.

    The clock runs during Trainer.fit: data, training, validation, logging, checkpoints.
    """

    def __init__(
        self,
        source: Source,
        *,
        words: Iterable[str],
        epochs: int = 1,
        checkpoints: bool = True,
        compiled: bool = False,
        captured: bool = False,
    ) -> None:
        self.source, self.epochs, self.checkpoints = source, epochs, checkpoints
        self.compiled, self.captured = compiled, captured
        self.words = [*words, f"epochs={epochs}", f"compile={str(compiled).lower()}"]

    def turn(self, number: int, watch: Stopwatch) -> Turn:
        """A fresh run with seed `number`; the figures are those after the first epoch, as of the other arms."""
        rows, result = self.train(number, watch)
        figures = {name: float(rows[0][name]) for name in FIGURES}
        return Turn(units=self.epochs, figures=figures, how=f"route of float32 products: {result['matmul']}")

    def train(self, seed: int, watch: Stopwatch) -> tuple[list[dict[str, str]], dict[str, Any]]:
        """The rows of metrics.csv of a fresh run, and its result."""
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            run = compose_run([*self.words, f"runs={folder}", f"seed={seed}"])
            stack.enter_context(mock.patch.dict(sources.SOURCES, {run.config["data"]["name"]: lambda _: self.source}))
            if not self.checkpoints:
                # an empty list would bring Lightning's own checkpoints
                nothing = [ModelCheckpoint(save_top_k=0)]
                stack.enter_context(mock.patch.object(checkpoint, "callbacks", lambda *_: nothing))
            stack.enter_context(_fit_timed(watch))
            stack.enter_context(demanded("ours", compiled=self.compiled, captured=self.captured))
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            run.begin()
            result = train(run, Signals())
            with open(run.folder / "metrics.csv") as file:
                return list(csv.DictReader(file)), result


@contextlib.contextmanager
def _fit_timed(watch: Stopwatch) -> Iterator[None]:
    fit = pl.Trainer.fit

    def timed(*args: Any, **kwargs: Any) -> None:
        with watch:
            fit(*args, **kwargs)

    with mock.patch.object(pl.Trainer, "fit", timed):
        yield


def compose_run(words: Iterable[str]) -> Run:
    """The run that train.py would make of these words."""
    from hydra.errors import CompactHydraException
    from omegaconf.errors import OmegaConfBaseException

    from vitbn.config import compose as config
    from vitbn.config.checks import check

    if not config.CONF.exists():
        raise InputError(f"{config.CONF}: not found; bench.py measures train.py and runs in the project's checkout")
    try:
        tree = config.plain(config.read(list(words)))
        check(tree)
    except (CompactHydraException, OmegaConfBaseException) as error:
        raise InputError(config.one_line(error)) from None
    return Run(tree)
