"""What happens around Hydra's jobs wherever they run."""

import os
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vitbn.config.checks import check
from vitbn.config.compose import to_plain_dict
from vitbn.config.launch import check_hydra
from vitbn.config.messages import report_user_errors
from vitbn.store.run import COMPLETE, Run, skipped_line, warn_of_renamed_runs


class RunCallback(Callback):
    """Checks a single run's configuration (the sweeper checks a sweep's), and sets a worker's threads."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse bad values before a folder is made."""
        with report_user_errors():  # Hydra turns what a callback raises into a warning, but for SystemExit
            check_hydra(config.hydra)
            run = Run(to_plain_dict(config))
            typed: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)  # ${…} as it was typed
            check(run.config, typed)
            if not run.folder.exists():
                warn_of_renamed_runs(run.study)
            status = (run.result() or {}).get("status")
            if status in COMPLETE and not config.rerun and not os.access(run.folder, os.W_OK):
                print(skipped_line(run, status, typed))  # Hydra's log file cannot be opened there
                raise SystemExit(0)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """One thread per run where a launcher trains several at once, unless OMP_NUM_THREADS says otherwise."""
        if config.hydra.mode == RunMode.MULTIRUN and not config.hydra.launcher._target_.endswith(".BasicLauncher"):
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch, which is imported later
            os.environ["VITBN_PARALLEL"] = "1"  # this process is one of several
