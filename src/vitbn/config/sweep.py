"""What happens around Hydra's jobs: every configuration is checked before the first one starts,
and a sweep ends with the table of its runs."""

import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from shutil import which
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from vitbn.config.checks import check
from vitbn.config.compose import explained, plain, register
from vitbn.config.jobs import jobs, over_lists
from vitbn.errors import InputError
from vitbn.store import run as study
from vitbn.store.status import write_plan

log = logging.getLogger(__name__)
# launchers that extras bring: the module that is there when the extra is, and its name
EXTRAS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "ray": ("ray", "ray"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
}
register()  # a launcher's worker gets the callback below, and with it the resolvers, but never runs train.py's top


class StudyCallback(Callback):
    """Checks before the first job; the table after the last."""

    def __init__(self) -> None:
        self.planned: dict[tuple[str, ...], study.Run] = {}  # by what would be typed for the run alone

    @property
    def runs(self) -> list[study.Run]:
        return list(self.planned.values())

    def run_of(self, job: Sequence[str]) -> study.Run:
        """The run that a job of the sweep trains."""
        return self.planned[tuple(job)]

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse bad values before a folder is made."""
        with explained():
            check(plain(config), config.hydra.overrides.task)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse bad values in any job before the first one starts."""
        with explained():
            require_launcher(config.hydra.runtime.choices["hydra/launcher"])
            if not over_lists(config):
                check(plain(config))
            for words, job in jobs(config):
                check(job, words)
                self.planned[tuple(words)] = study.Run(job)
            for folder in {run.study for run in self.runs}:
                write_plan(folder, [run for run in self.runs if run.study == folder])

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """One thread per run where a launcher trains several at once, unless OMP_NUM_THREADS says otherwise."""
        if config.hydra.mode == RunMode.MULTIRUN and not config.hydra.launcher._target_.endswith(".BasicLauncher"):
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch, which is imported later

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with 1 if the run failed."""
        if failed([study.Run(plain(config))]):
            raise SystemExit(1)  # Hydra swallows any other exception of a callback

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Show what the sweep's runs came to; exit with 1 if any failed."""
        for folder in sorted({run.study for run in self.runs}):
            study.write_summary(folder)
            study.print_table(folder, [run.folder for run in self.runs if run.study == folder])
        if config.logger.name == "tensorboard":
            log.info(f"curves: tensorboard --logdir {config.runs}")
        if names := failed(self.runs):
            log.error(f"failed: {', '.join(names)}")
            raise SystemExit(1)


def require_launcher(name: str) -> None:
    """InputError if the launcher comes with an extra that is not installed, or submits to a Slurm that is not there."""
    module, extra = EXTRAS.get(name, ("hydra", ""))
    if find_spec(module) is None:
        raise InputError(f"hydra/launcher={name}: needs a package that is not installed; pip install -e '.[{extra}]'")
    if name == "submitit_slurm" and which("srun") is None:
        raise InputError(f"hydra/launcher={name}: no srun here; type it on a machine of a Slurm cluster")


def failed(runs: list[study.Run]) -> list[str]:
    """The folders of the runs that failed."""
    return [str(run.folder) for run in runs if (run.result() or {}).get("status") == "failed"]
