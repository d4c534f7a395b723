"""A run's parts, put together from its configuration: data, network, callbacks, logger, trainer."""

import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from vitbn import sealed
from vitbn.data.datamodule import ImageData
from vitbn.errors import InputError
from vitbn.inference.pretrained import load_pretrained
from vitbn.models.build import build, make_optimizer
from vitbn.training import checkpoint, guards, recording
from vitbn.training.classifier import Classifier
from vitbn.training.fingerprint import fingerprint
from vitbn.training.outcome import Signals
from vitbn.training.precise import PreciseStatistics
from vitbn.training.schedule import make_factor
from vitbn.training.study import Run


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
    if cfg["trainer"]["accelerator"] == "gpu" and not torch.accelerator.is_available():
        raise InputError("trainer.accelerator=gpu: no GPU here; use trainer=cpu, or trainer=default for what is there")
    net = build(cfg["model"], seed=cfg["seed"])
    if cfg["model"].get("pretrained"):
        load_pretrained(net, cfg)
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
    logger = _logger(run)
    callbacks: list[pl.Callback] = [metrics_file, *_watchers(run, metrics_file, data, chance)]
    if logger:
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
    return Parts(data, classifier, trainer, metrics_file, chance, prints)


def _quieten() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # set to INFO by its import
    for noise in (".*LeafSpec.* is deprecated", "Checkpoint directory .* exists and is not empty", "Glyph .* missing"):
        warnings.filterwarnings("ignore", noise)


def _logger(run: Run) -> Any:
    if run.config["logger"]["name"] != "tensorboard":
        return False
    logger = recording.Events(run.folder, run.labels)
    logger.announce()
    return logger


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
