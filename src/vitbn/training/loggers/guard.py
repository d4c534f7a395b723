"""Calls that may neither raise nor hang."""

import logging
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from vitbn.errors import describe

log = logging.getLogger("vitbn")
SECONDS = 10.0  # until a logger that does not answer is given up; one without a server may have its own `seconds`
SECONDS_WITHOUT_SERVER = 120.0  # where only a loaded machine can be slow
MAX_REASON = 200  # characters of an error, which may be a page of SQL


class Guard:
    """Calls a logger's functions until the first that fails, which is a warning; from then on none."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.given_up = False
        self.seconds = SECONDS

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the function returns; None if it fails, and ever after."""
        if self.given_up:
            return None
        try:
            return function(*args, **kwargs)
        except (Exception, SystemExit) as error:
            self.given_up = True
            if is_first_process():
                reason = describe(error) or type(error).__name__
                reason = reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]} …"
                log.warning(f"logger={self.name}: not used from here on: {reason} (the curves are in metrics.csv)")
            return None

    def timed(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The same; it also fails if it does not return within so many seconds."""
        return self(within, self.seconds, function, *args, **kwargs)


def is_first_process() -> bool:
    """Whether this process is the one of its run that logs."""
    return getattr(rank_zero_only, "rank", 0) == 0  # Lightning keeps it there


def within(seconds: float, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the function returns or raises; TimeoutError if that takes longer, and nobody waits for it any more."""
    answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            answers.put((function(*args, **kwargs), None))
        except BaseException as error:
            answers.put((None, error))

    Thread(target=work, daemon=True).start()  # a daemon, which does not keep the process alive
    try:
        value, error = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer within {seconds:g} seconds") from None
    if error is not None:
        raise error
    return value
