"""Train one configuration, or sweep over many.

python train.py model=vitbnffn depth=6
python train.py -m model=vit,vitbnffn depth=4,5,6,7 seed=0,1,2
"""

import logging
import sys

import hydra
from omegaconf import DictConfig

from vitbn.config import compose as config
from vitbn.store.lock import owned
from vitbn.store.run import FINISHED, Run

log = logging.getLogger("vitbn")
config.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """One job: skip it if it is done or in other hands, else train it and write its result. Returns val/acc."""
    run = Run(config.plain(cfg))
    with owned(run.folder) as mine:
        result = run.result() or {}
        if not mine:
            log.info(f"{run.folder}: being trained by another process, skipped")
        elif result.get("status") in FINISHED and not cfg.rerun:
            log.info(f"{run.folder}: {result['status']}, skipped (rerun=true trains it again)")
        else:
            log.info(f"{run.folder}")
            from vitbn.training.outcome import attempt
            from vitbn.training.train import train

            result = attempt(run, train)
    if result.get("status") == "failed" and cfg.fail_fast:
        raise SystemExit(1)
    return (result.get("metrics") or {}).get("val/acc")


if __name__ == "__main__":
    with config.explained():
        sys.exit(main())
