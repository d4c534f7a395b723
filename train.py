"""Train one configuration, or sweep over many.

python train.py model=vitbnffn depth=6
python train.py -m model=vit,vitbnffn depth=4,5,6,7 seed=0,1,2
"""

import logging
import sys
from typing import Any

import hydra
from omegaconf import DictConfig

from vitbn import config
from vitbn.lock import owned
from vitbn.training.outcome import Signals, attempt
from vitbn.training.spared import BY_TORCHMETRICS, spared
from vitbn.training.study import FINISHED, Run

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
            result = attempt(run, train)
    if result.get("status") == "failed" and cfg.fail_fast:
        raise SystemExit(1)
    return (result.get("metrics") or {}).get("val/acc")


def train(run: Run, signals: Signals) -> dict[str, Any]:
    """Parts -> fit -> test -> what result.json says."""
    with spared(*BY_TORCHMETRICS):
        from vitbn.training.assembly import assemble
    from vitbn import sealed
    from vitbn.training import matmul
    from vitbn.training.fingerprint import environment

    cfg, parts = run.config, assemble(run, signals)
    trainer, classifier, data = parts.trainer, parts.classifier, parts.data
    probe = matmul.probe_images(cfg["batch_size"], cfg["data"]["channels"], cfg["data"]["image_size"])
    with matmul.routed(cfg["matmul"], classifier.net, probe, trainer.strategy.root_device) as products:
        if cfg["compile"]:
            classifier.net.compile()
        with signals.deferred():
            trainer.fit(classifier, data, ckpt_path=sealed.newest_whole(run.checkpoints))
        parts.metrics_file.write()
        trainer.test(classifier, data, verbose=False)

    last = parts.metrics_file.rows[-1]
    metrics = {name: last[name] for name in ("train/loss", "train/acc", "val/loss", "val/acc")}
    metrics |= {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    return {
        "label": "stuck" if last["val/acc"] <= parts.chance else None,
        "metrics": metrics,
        "epochs": len(parts.metrics_file.rows),
        "error": None,
        "matmul": products,
        "cuda_graph": classifier.captured is not None,
        "fingerprint": parts.fingerprint,
        "confusion": classifier.confusion.compute().tolist(),
        **environment(trainer.strategy.root_device),
    }


if __name__ == "__main__":
    with config.explained():
        sys.exit(main())
