"""How a training can end, and what is written for each ending. Imports no torch.

done         every epoch, or stopped early: stuck, early_stopping, max_steps, max_time
diverged     loss, weights or validation became NaN or infinite: an outcome, with the step where it happened
failed       an exception; its traceback is in the run's folder, and the next attempt starts from the last checkpoint
interrupted  SIGTERM or Ctrl-C: a checkpoint and no result, so that the same command goes on
"""

import logging
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from vitbn.errors import InputError, describe
from vitbn.store.run import COMPLETE, Run

log = logging.getLogger("vitbn")
INTERRUPTING = (signal.SIGTERM, signal.SIGINT)


class Diverged(Exception):
    """`what` is no longer finite since `step` (counted from 1)."""

    def __init__(self, step: int, what: str = "loss") -> None:
        super().__init__(f"{what} not finite at step {step}")
        self.step = step


class Interruption(BaseException):
    """A signal asked the training to end; raised where a checkpoint has been written or none is needed."""


class Signals:
    """Remembers SIGTERM and SIGINT until training comes to a place where it can stop.

    Outside `deferred()` a signal stops at once. A second one always does.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._deferred = False

    @contextmanager
    def handled(self, *numbers: signal.Signals) -> Iterator["Signals"]:
        """Replace the handlers for the time of a training; needs the main thread, does nothing elsewhere."""
        before = {}
        with suppress(ValueError):
            before = {number: signal.signal(number, self._handle) for number in numbers or INTERRUPTING}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While this lasts, whoever trains asks `received` and stops by itself."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.received:
            raise Interruption

    def _handle(self, number: int, frame: Any) -> None:
        second = self.received is not None
        self.received = signal.Signals(number)
        if second or not self._deferred:
            raise Interruption


def attempt(run: Run, train: Callable[[Run, Signals], dict[str, Any]]) -> dict[str, Any]:
    """Train and write the result, whatever the end; SystemExit(128 + signal) if it was interrupted."""
    started = time.perf_counter()
    signals = Signals()
    begun = False

    def deleted() -> bool:
        return begun and not (run.folder / "config.yaml").exists()

    try:
        with signals.handled():
            run.begin()
            begun = True
            ending = train(run, signals)
        if ending["status"] == "diverged":
            log.warning(f"{run.folder}: diverged at step {ending['step']}")
    except BaseException as error:
        if signals.received is not None:
            saved = any(run.checkpoints.glob("*.ckpt"))
            then = "goes on from there" if saved else "begins anew, nothing was saved"
            log.warning(f"{run.folder}: interrupted by {signals.received.name}; the same command {then}")
            raise SystemExit(128 + signals.received) from None
        if not isinstance(error, Exception):
            raise
        if not deleted():
            ending = _failure(run, error)
    if deleted():
        return _failure(run, InputError("its folder was deleted while it was trained; the same command trains it anew"))
    try:
        result = run.finish(seconds=round(time.perf_counter() - started, 3), **ending)
        if result["status"] in COMPLETE:
            run.discard_checkpoints()
        return result
    except OSError as error:
        log.error(f"{run.folder}: failed: {describe(error)}")
        return ending | {"status": "failed"}


def _failure(run: Run, error: Exception) -> dict[str, Any]:
    if isinstance(error, InputError | OSError):
        log.error(f"{run.folder}: failed: {describe(error)}")
    else:
        log.error(f"{run.folder}: failed: {type(error).__name__}: {error} (traceback.txt there says where)")
    with suppress(OSError):
        (run.folder / "traceback.txt").write_text("".join(traceback.format_exception(error)))
    return {"status": "failed", "metrics": {}, "epochs": None, "error": f"{type(error).__name__}: {describe(error)}"}
