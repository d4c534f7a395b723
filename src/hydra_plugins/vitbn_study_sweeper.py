"""Sweeps over listed values as Hydra's own, but finished runs are skipped before they are composed or launched."""

import logging
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from vitbn.config.sweep import StudyCallback
from vitbn.store.run import FINISHED

log = logging.getLogger(__name__)
NAMED = 50  # skipped runs that get a line each


class StudySweeper(BasicSweeper):
    """What StudyCallback has checked, less what is done."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        (callback,) = (each for each in hydra_context.callbacks.callbacks if isinstance(each, StudyCallback))
        assert self.launcher is not None
        self.launcher = Unfinished(self.launcher, callback, rerun=config.rerun)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing to do: StudyCallback has named and checked every job."""


class Unfinished(Launcher):
    """Launches the jobs whose run has no outcome yet."""

    def __init__(self, launcher: Launcher, callback: StudyCallback, *, rerun: bool) -> None:
        self.launcher, self.callback, self.rerun = launcher, callback, rerun

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """The launcher itself is set up already."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        left, skipped = [], []
        for job in job_overrides:
            run = self.callback.run_of(job)
            status = (run.result() or {}).get("status")
            if status in FINISHED and not self.rerun:
                skipped.append(f"{run.folder}: {status}, skipped (rerun=true trains it again)")
            else:
                left.append(job)
        for line in skipped[:NAMED]:
            log.info(line)
        if len(skipped) > NAMED:
            log.info(f"and {len(skipped) - NAMED:,} more: done, skipped")
        return self.launcher.launch(left, initial_job_idx) if left else []
