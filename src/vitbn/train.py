"""`vitbn train` and `python train.py`: train one configuration, or sweep over many."""

import logging
import os
from datetime import timedelta
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vitbn.config.compose import CONF, to_plain_dict
from vitbn.config.messages import report_user_errors
from vitbn.errors import RunFailed, describe
from vitbn.store.lock import locked
from vitbn.store.rerun import written
from vitbn.store.run import COMPLETE, Run, skipped_line

log = logging.getLogger("vitbn")


def main() -> None:
    """Do what the command line says; ends by SystemExit when a run failed or the input is bad."""
    with report_user_errors():
        train_job()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def train_job(cfg: DictConfig) -> float | None:
    """Train one run unless it is complete or locked by another process. Returns val/acc; RunFailed if it failed."""
    logging.raiseExceptions = False  # on a full disk train.log would give a traceback for every line
    run = Run(to_plain_dict(cfg))
    job = HydraConfig.get()
    is_sweep = job.mode == RunMode.MULTIRUN
    try:
        with locked(run.folder) as acquired:
            if not acquired:
                log.info(f"{run.folder}: locked by another process, which trains it: skipped")
                return None
            result = run.result() or {}
            began = os.environ.get("VITBN_SWEEP_BEGAN") if is_sweep else None  # of the sweeper
            is_new = began is not None and (written(run) or 0) > int(began)  # another process has the same sweep
            if result.get("status") in COMPLETE and is_new:
                log.info(f"{run.folder}: done by another process since this sweep began: skipped")
            elif result.get("status") in COMPLETE and not run.config["rerun"]:
                log.info(skipped_line(run, result["status"], job.overrides.task))
            else:
                total = os.environ.get("VITBN_SWEEP_RUNS")  # of the sweeper
                log.info(f"run {job.job.num + 1} of {total}: {run.folder}" if is_sweep and total else str(run.folder))
                from vitbn.analysis.table import refresh_summary, write_summary
                from vitbn.training.outcome import attempt
                from vitbn.training.train import train

                try:
                    result = attempt(run, train)
                finally:  # an interrupted run has its row, too; a sweep writes the summary when it ends
                    (refresh_summary if is_sweep else write_summary)(run.study)
            say_how_it_ended(run, result, is_sweep)
    except OSError as error:  # of the lock's file
        log.error(f"{run.folder}: failed: {describe(error)}")
        result = {"status": "failed"}
    if result["status"] == "failed":
        raise SystemExit(1) if cfg.fail_fast else RunFailed
    return (result.get("metrics") or {}).get("val/acc")


def say_how_it_ended(run: Run, result: dict[str, Any], is_sweep: bool) -> None:
    """The accuracies of a run that is done and, if it was no part of a sweep, what to type next."""
    if result["status"] != "done":
        return
    metrics = result["metrics"]
    accuracies = "  ".join(
        f"{name} {metrics[name]:.2%}" for name in ("val/acc", "test/acc") if metrics.get(name) is not None
    )
    log.info(f"done after {timedelta(seconds=round(result['seconds']))}: {accuracies}")
    if not is_sweep:
        curves = f"tensorboard --logdir {run.config['runs']}" if "tensorboard" in run.config["logger"] else None
        commands = [f"vitbn evaluate --ckpt {run.folder}", f"vitbn report {run.study}", curves]
        log.info("next:  " + "\n       ".join(command for command in commands if command))
