"""A run's parts, put together from its configuration: data, network, callbacks, logger, trainer."""

import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from vitbn.data.datamodule import ImageData
from vitbn.errors import InputError
from vitbn.models.factory import build, make_optimizer
from vitbn.models.sync_batchnorm import synchronize
from vitbn.store import checkpoint_file as sealed
from vitbn.store.run import Run
from vitbn.training.callbacks import checkpoint
from vitbn.training.callbacks import metrics as recording
from vitbn.training.callbacks import stopping as guards
from vitbn.training.callbacks.recalibrate import PreciseStatistics
from vitbn.training.fingerprint import fingerprint
from vitbn.training.loggers import make_logger
from vitbn.training.module import Classifier
from vitbn.training.outcome import Signals
from vitbn.training.schedule import make_factor
from vitbn.weights.pretrained import load_pretrained


@dataclass(frozen=True)
class Parts:
    """What a training consists of, before its first step."""

    data: ImageData
    classifier: Classifier
    trainer: pl.Trainer
    metrics_file: recording.MetricsFile
    chance: float  # the accuracy of guessing, below which a run counts as stuck
    fingerprint: dict[str, Any]


def assemble(run: Run, signals: Signals) -> Parts:
    """The run's parts; InputError for data, weights or a device that are not there."""
    _quieten()
    cfg = run.config
    _require_devices(cfg["trainer"])
    net = build(cfg["model"], seed=cfg["seed"])
    if cfg["model"].get("pretrained"):
        load_pretrained(net, cfg)
    if cfg["trainer"]["devices"] > 1 and cfg["trainer"]["sync_batchnorm"]:
        synchronize(net)
    data = ImageData.of(cfg)
    data.setup("fit")
    prints = fingerprint(net, seed=cfg["seed"], train_images=len(data.splits[0]), validation=data.validation_draws())
    classifier = Classifier(
        net,
        num_classes=len(data.classes),
        optimizer=make_optimizer(cfg["optimizer"]),
        factor=make_factor(cfg["schedule"], epochs=cfg["epochs"], steps_per_epoch=data.steps_per_epoch),
        seed=cfg["seed"],
        test_train_mode=cfg["test_train_mode"],
    )
    metrics_file = recording.MetricsFile(run.folder / "metrics.csv")
    chance = guards.chance_level(data.splits[1].labels)
    logger = make_logger(run)
    callbacks: list[pl.Callback] = [metrics_file, *_watchers(run, metrics_file, data, chance)]
    if isinstance(logger, recording.Events):
        callbacks.append(recording.Pictures(logger, data.classes))
    # last, so that a checkpoint holds what the callbacks before them have just counted
    callbacks += [
        guards.StopOnSignal(signals, run.checkpoints / sealed.LAST),
        *checkpoint.callbacks(run.checkpoints, cfg["checkpoint"]["every_minutes"]),
    ]
    trainer = pl.Trainer(
        **_placing(cfg["trainer"]), max_epochs=cfg["epochs"], logger=logger or False, callbacks=callbacks,
        plugins=[checkpoint.DurableCheckpointIO()], default_root_dir=run.folder, num_sanity_val_steps=0,
        enable_model_summary=False, enable_progress_bar=sys.stdout.isatty(), use_distributed_sampler=False,
        log_every_n_steps=1,
    )  # fmt: skip
    # Lightning converts after it has restored a checkpoint, which would round float64 weights to float32 on the way
    trainer.precision_plugin.convert_module(classifier)
    return Parts(data, classifier, trainer, metrics_file, chance, prints)


def _require_devices(trainer: dict[str, Any]) -> None:
    here = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if trainer["accelerator"] == "gpu" and not here:
        raise InputError("trainer.accelerator=gpu: no GPU here; use trainer=cpu, or trainer=default for what is there")
    if trainer["accelerator"] != "cpu" and 0 < here < trainer["devices"]:
        raise InputError(
            f"trainer.devices={trainer['devices']}: {here} GPU here; trainer=cpu would take processes instead"
        )


def _placing(trainer: dict[str, Any]) -> dict[str, Any]:
    """What Lightning is told about devices; `vitbn.training.ddp` has started one process for each."""
    strategy = DDPStrategy(cluster_environment=LightningEnvironment()) if trainer["devices"] > 1 else "auto"
    return {key: trainer[key] for key in ("accelerator", "devices", "precision")} | {"strategy": strategy}


def _quieten() -> None:
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # set to INFO by their import
    for noise in (
        ".*LeafSpec.* is deprecated",
        "Checkpoint directory .* exists and is not empty",
        "Glyph .* missing",
        ".*recommended to use `self.log.*sync_dist=True",
    ):  # the metrics are synchronized by themselves
        warnings.filterwarnings("ignore", noise)


def _watchers(run: Run, metrics_file: recording.MetricsFile, data: ImageData, chance: float) -> Iterator[pl.Callback]:
    cfg = run.config
    yield recording.progress()
    yield guards.Divergence(metrics_file)
    if cfg["stop_stuck"]:
        yield guards.Stuck(chance, cfg["stop_stuck"])
    if cfg["recalibrate_bn"]:
        yield PreciseStatistics(data)
    if cfg["log_every"]:
        yield recording.StepsFile(run.folder / "steps.csv", cfg["log_every"])
