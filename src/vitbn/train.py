"""`vitbn train` and `python train.py`: train one configuration, or sweep over many."""

import logging

import hydra
from omegaconf import DictConfig

from vitbn.config.compose import CONF, report_user_errors, to_plain_dict
from vitbn.errors import RunFailed, describe
from vitbn.store.lock import locked
from vitbn.store.run import COMPLETE, Run

log = logging.getLogger("vitbn")


def main() -> None:
    """Do what the command line says; ends by SystemExit when a run failed or the input is bad."""
    with report_user_errors():
        train_job()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def train_job(cfg: DictConfig) -> float | None:
    """Train one run unless it is complete or locked by another process. Returns val/acc; RunFailed if it failed."""
    run = Run(to_plain_dict(cfg))
    try:
        with locked(run.folder) as acquired:
            if not acquired:
                log.info(f"{run.folder}: locked by another process, which trains it: skipped")
                return None
            result = run.result() or {}
            if result.get("status") in COMPLETE and not cfg.rerun:
                log.info(f"{run.folder}: {result['status']}, skipped (rerun=true trains it again)")
            else:
                log.info(f"{run.folder}")
                from vitbn.training.outcome import attempt
                from vitbn.training.train import train

                result = attempt(run, train)
    except OSError as error:  # of the lock's file
        log.error(f"{run.folder}: failed: {describe(error)}")
        result = {"status": "failed"}
    if result["status"] == "failed":
        raise SystemExit(1) if cfg.fail_fast else RunFailed
    return (result.get("metrics") or {}).get("val/acc")
