"""Train one configuration, or sweep over many.

python train.py model=vitbnffn depth=6
python train.py -m model=vit,vitbnffn depth=4,5,6,7 seed=0,1,2
"""

import logging
import sys
import warnings
from typing import Any

import hydra
from omegaconf import DictConfig

from vitbn import config
from vitbn.lock import owned
from vitbn.training.outcome import Signals, attempt
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
    """data -> network -> callbacks -> logger -> trainer -> fit -> test -> what result.json says."""
    import pytorch_lightning as pl
    import torch

    from vitbn import sealed
    from vitbn.data.datamodule import ImageData
    from vitbn.errors import InputError
    from vitbn.inference.pretrained import load_pretrained
    from vitbn.models.build import build, make_optimizer
    from vitbn.training import checkpoint, guards, matmul, recording
    from vitbn.training.classifier import Classifier
    from vitbn.training.fingerprint import environment, fingerprint
    from vitbn.training.precise import PreciseStatistics
    from vitbn.training.schedule import make_factor

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # set to INFO by its import
    for noise in (".*LeafSpec.* is deprecated", "Checkpoint directory .* exists and is not empty", "Glyph .* missing"):
        warnings.filterwarnings("ignore", noise)
    cfg = run.config
    if cfg["trainer"]["accelerator"] == "gpu" and not torch.accelerator.is_available():
        raise InputError("trainer.accelerator=gpu: no GPU here; use trainer=cpu, or trainer=default for what is there")
    net = build(cfg["model"], seed=cfg["seed"])
    if cfg["model"].get("pretrained"):
        load_pretrained(net, cfg)
    data = ImageData.of(cfg)
    data.setup("fit")
    prints = fingerprint(net, seed=cfg["seed"], train_images=len(data.splits[0]), validation=data.validation_draws())
    optimizer = make_optimizer(cfg["optimizer"])
    factor = make_factor(cfg["schedule"], epochs=cfg["epochs"], steps_per_epoch=data.steps_per_epoch)
    classifier = Classifier(
        net, num_classes=len(data.classes), optimizer=optimizer, factor=factor,
        **{key: cfg[key] for key in ("seed", "test_train_mode")},
    )  # fmt: skip

    metrics_file = recording.MetricsFile(run.folder / "metrics.csv")
    chance = guards.chance_level(data.splits[1].labels)
    callbacks: list[pl.Callback] = [metrics_file, recording.progress(), guards.Divergence(metrics_file)]
    if cfg["stop_stuck"]:
        callbacks.append(guards.Stuck(chance, cfg["stop_stuck"]))
    if cfg["recalibrate_bn"]:
        callbacks.append(PreciseStatistics(data))
    if cfg["log_every"]:
        callbacks.append(recording.StepsFile(run.folder / "steps.csv", cfg["log_every"]))
    logger: Any = False
    if cfg["logger"]["name"] == "tensorboard":
        logger = recording.Events(run.folder, run.labels)
        logger.announce()
        callbacks.append(recording.Pictures(logger, data.classes))
    # last, so that a checkpoint holds what the callbacks before them have just counted
    callbacks += [
        guards.StopOnSignal(signals, run.checkpoints / sealed.LAST),
        *checkpoint.callbacks(run.checkpoints, cfg["checkpoint"]["every_minutes"]),
    ]

    trainer = pl.Trainer(
        **cfg["trainer"], max_epochs=cfg["epochs"], logger=logger, callbacks=callbacks,
        plugins=[checkpoint.DurableCheckpointIO()], default_root_dir=run.folder, num_sanity_val_steps=0,
        enable_model_summary=False, enable_progress_bar=sys.stdout.isatty(), use_distributed_sampler=False,
        log_every_n_steps=1,
    )  # fmt: skip
    probe = matmul.probe_images(cfg["batch_size"], cfg["data"]["channels"], cfg["data"]["image_size"])
    with matmul.routed(cfg["matmul"], net, probe, trainer.strategy.root_device) as products:
        if cfg["compile"]:
            net.compile()
        with signals.deferred():
            trainer.fit(classifier, data, ckpt_path=sealed.newest_whole(run.checkpoints))
        metrics_file.write()
        trainer.test(classifier, data, verbose=False)

    last = metrics_file.rows[-1]
    metrics = {name: last[name] for name in ("train/loss", "train/acc", "val/loss", "val/acc")}
    metrics |= {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    return {
        "label": "stuck" if last["val/acc"] <= chance else None,
        "metrics": metrics,
        "epochs": len(metrics_file.rows),
        "error": None,
        "matmul": products,
        "cuda_graph": classifier.captured is not None,
        "fingerprint": prints,
        "confusion": classifier.confusion.compute().tolist(),
        **environment(trainer.strategy.root_device),
    }


if __name__ == "__main__":
    with config.explained():
        sys.exit(main())
