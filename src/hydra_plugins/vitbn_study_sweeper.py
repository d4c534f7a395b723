"""Sweeps over listed values: every job is checked before the first one starts, complete runs are not launched.

Hydra imports this module in every application of the environment, so what is ours is imported where it is used.
"""

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from vitbn.store.run import Run

log = logging.getLogger(__name__)
MAX_SKIPPED_LINES = 50  # complete runs that get a line each


class StudySweeper(Sweeper):
    """Trains every combination of the listed values whose run is not complete; RunFailed if any run failed."""

    config: DictConfig
    launcher: Launcher

    def __init__(self, max_batch_size: int | None, params: DictConfig | None) -> None:
        from vitbn.config.ranges import counting, require

        require("hydra.sweeper.max_batch_size", max_batch_size, counting)
        self.max_batch_size = max_batch_size  # `params` come with the configuration of `setup`

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from vitbn.config.launch import check_hydra

        check_hydra(config.hydra)
        self.config = config
        self.loader = hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Check all jobs, launch those whose run is not complete, print the table of all."""
        from vitbn.analysis.table import print_table, write_summary
        from vitbn.errors import RunFailed
        from vitbn.store.labels import flatten
        from vitbn.store.rerun import end_rerun

        os.environ["VITBN_SWEEP_BEGAN"] = str(time.time_ns())
        jobs = self._checked_jobs(arguments)
        studies: dict[Path, list[Run]] = {}
        for _, run in jobs:
            studies.setdefault(run.study, []).append(run)
        missing = self._missing(jobs, studies)
        outcomes: list[JobReturn] = []
        batch_size = self.max_batch_size or len(missing) or 1
        os.environ["VITBN_SWEEP_RUNS"] = str(len(missing))
        for start in range(0, len(missing), batch_size):
            batch = [overrides for overrides, _ in missing[start : start + batch_size]]
            outcomes += self.launcher.launch(batch, initial_job_idx=start)
        for study, runs in studies.items():
            end_rerun(study, runs)
            write_summary(study)
            print_table(study, {run.folder: flatten(run.config) for run in runs})
        if "tensorboard" in self.config.logger:
            log.info(f"curves: tensorboard --logdir {self.config.runs}")
        # by what the jobs returned: a full disk may have kept their result.json from being written
        launched = zip((run.folder for _, run in missing), outcomes, strict=True)
        if failed := [str(folder) for folder, outcome in launched if outcome.status == JobStatus.FAILED]:
            log.error(f"failed: {', '.join(failed)}")
            raise RunFailed
        return outcomes

    def _checked_jobs(self, arguments: list[str]) -> list[tuple[list[str], "Run"]]:
        """The overrides and the run of every job; InputError for the first that cannot be trained."""
        from vitbn.config.checks import check
        from vitbn.config.sweep import sweep_jobs
        from vitbn.store.run import Run

        jobs = []
        for job in sweep_jobs(self.config, arguments, self.loader):
            check(job.config, job.overrides)
            jobs.append((job.overrides, Run(job.config)))
        return jobs

    def _missing(
        self, jobs: list[tuple[list[str], "Run"]], studies: dict[Path, list["Run"]]
    ) -> list[tuple[list[str], "Run"]]:
        """The jobs to launch; records in the studies' folders which runs the sweep has."""
        from vitbn.errors import describe
        from vitbn.store.plan import write_plan
        from vitbn.store.rerun import begin_rerun
        from vitbn.store.run import COMPLETE, skipped_line, warn_of_renamed_runs

        rerun = {study: runs for study, runs in studies.items() if runs[0].config["rerun"]}
        again = {folder for study, runs in rerun.items() for folder in begin_rerun(study, runs)}
        missing, skipped = [], []
        for overrides, run in jobs:
            status = (run.result() or {}).get("status")
            if status in COMPLETE and run.folder not in again:
                skipped.append(skipped_line(run, status, overrides))
            else:
                missing.append((overrides, run))
        for line in skipped[:MAX_SKIPPED_LINES]:
            log.info(line)
        if len(skipped) > MAX_SKIPPED_LINES:
            log.info(f"and {len(skipped) - MAX_SKIPPED_LINES:,} more: done, skipped")
        for study in {run.study for _, run in missing}:
            warn_of_renamed_runs(study)
        for study, runs in studies.items():
            try:
                write_plan(study, runs)
            except OSError as error:  # of a read-only folder, which is no harm to runs that are complete
                log.warning(f"{study}: which runs are planned was not written: {describe(error)}")
        return missing
