"""`rerun=true` of a sweep is carried out once, however often the sweep is interrupted. Imports no torch.

<study>/.plans/<hash of the runs>.rerun says, while the sweep goes on, which results are to be replaced.
"""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vitbn.errors import InputError, describe
from vitbn.store import atomic
from vitbn.store.run import Run
from vitbn.store.text_file import read_json

log = logging.getLogger("vitbn")


def begin_rerun(study: Path, runs: Sequence[Run]) -> set[Path]:
    """The folders of the runs to train again: all, or those that an interrupted sweep of the same runs left to do."""
    path = _path(study, runs)
    now = {run.id: written(run) for run in runs}
    try:
        before = read_json(path)
        log.info(f"{study}: the interrupted sweep with rerun=true goes on")
    except (OSError, InputError):  # none, or one that cannot be read
        before = now
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_json(path, now)
        except OSError as error:  # of a read-only folder
            log.warning(f"{path}: not written: {describe(error)}")
    return {run.folder for run in runs if before.get(run.id) == now[run.id] is not None}


def end_rerun(study: Path, runs: Sequence[Run]) -> None:
    """The sweep has come to its end."""
    with suppress(OSError):
        _path(study, runs).unlink(missing_ok=True)


def _path(study: Path, runs: Sequence[Run]) -> Path:
    name = hashlib.sha256(" ".join(sorted(run.id for run in runs)).encode()).hexdigest()[:12]
    return study / ".plans" / f"{name}.rerun"


def written(run: Run) -> int | None:
    """When the run's result was written, in ns since the epoch; None if it has none."""
    try:
        return (run.folder / "result.json").stat().st_mtime_ns
    except OSError:
        return None
