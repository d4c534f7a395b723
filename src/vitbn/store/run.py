"""A run on disk: its identity, and what is in its folder. Imports no torch.

runs/<study>/<run_id>/{config.yaml, metrics.csv, result.json, checkpoints/, events.out.tfevents.*}
"""

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from vitbn import __version__
from vitbn.errors import InputError, describe
from vitbn.store import atomic
from vitbn.store.text_file import read_json

log = logging.getLogger("vitbn")
# Keys that cannot change a result.
UNHASHED = (
    "study", "runs", "rerun", "fail_fast", "logger", "log_every", "checkpoint", "threads",
    "data.root", "data.cache", "trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.sync_batchnorm",
    "trainer.num_nodes", "trainer.limit_predict_batches", "trainer.num_sanity_val_steps", "trainer.inference_mode",
    "trainer.reload_dataloaders_every_n_epochs", "trainer.detect_anomaly", "trainer.enable_progress_bar",
    "trainer.enable_model_summary", "trainer.enable_checkpointing", "trainer.log_every_n_steps", "trainer.profiler",
    "trainer.enable_autolog_hparams", "trainer.model_registry",
)  # fmt: skip
# Callbacks that only look on; any other is taken to change results.
ONLOOKERS = (
    "vitbn.training.callbacks.images.TensorBoardImages",
    "vitbn.training.callbacks.instruments.Instruments",
    *(f"{package}.callbacks.{name}" for package in ("pytorch_lightning", "lightning.pytorch") for name in (
        "LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor", "ModelSummary", "RichModelSummary",
        "RichProgressBar", "TQDMProgressBar",
    )),
)  # fmt: skip
# Values that ask for nothing: a key with one of them counts as absent. `limit_train_batches: 1` is one batch, 1.0 all.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "norm.attn_post": ("none",),
    "norm.ffn_post": ("none",),
    "model.placement.attn_post": ("none",),
    "model.placement.ffn_post": ("none",),
    "matmul_precision": ("highest",),
    "label_smoothing": (0.0,),
    "mixup": (0.0,),
    "cutmix": (0.0,),
    "schedule.warmup": (0, 0.0),
    "trainer.min_epochs": (0, 1),
    "trainer.accumulate_grad_batches": (1,),
    "trainer.gradient_clip_val": (0, 0.0),
    "trainer.gradient_clip_algorithm": ("norm",),
    "trainer.limit_train_batches": (1.0,),
    "trainer.limit_val_batches": (1.0,),
    "trainer.limit_test_batches": (1.0,),
    "trainer.overfit_batches": (0, 0.0),
    "trainer.val_check_interval": (1.0,),
    "trainer.check_val_every_n_epoch": (1,),
    "trainer.max_steps": (-1,),
    "trainer.fast_dev_run": (0,),
}
RESULT_STATUSES = ("done", "failed", "diverged")
COMPLETE = ("done", "diverged")  # statuses that are not trained again; a failed run is


def config_hash(config: dict[str, Any]) -> str:
    """Eight hex digits of everything in the configuration that affects results.

    A key that is null, false or NEUTRAL counts as absent, and so does a group of nothing else: one that is added later
    with such a default leaves the identity of the runs on disk alone.
    """
    trainer = config.get("trainer", {})
    identity = _identity(config) | unpooled(trainer.get("devices"), trainer.get("sync_batchnorm"))
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def unpooled(devices: int | None, sync_batchnorm: Any) -> dict[str, int]:
    """What stands for `devices` and `sync_batchnorm` in an identity: over how many a BatchNorm splits a batch."""
    return {"unsynced_bn_world_size": devices} if devices and devices > 1 and sync_batchnorm is False else {}


def _identity(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """What is hashed of a configuration: of our own classes no import paths, so that code can move."""
    identity = {}
    for key, value in tree.items():
        if f"{prefix}{key}" in UNHASHED:
            continue
        if isinstance(value, dict):
            value = {} if value.get("_target_") in ONLOOKERS else _identity(value, f"{prefix}{key}.")
        elif key == "_target_" and str(value).startswith("vitbn."):
            if not prefix.startswith("callbacks."):  # whose name is free; others have a key `name` beside it
                continue
            value = value.rpartition(".")[2]
        if is_set(value, f"{prefix}{key}") and value != {}:
            identity[key] = value
    return identity


def is_set(value: Any, key: str = "") -> bool:
    """Whether the key (dotted) differs with this value from an absent one: null, false and what is NEUTRAL do not."""
    neutral = any(value == other and type(value) is type(other) for other in NEUTRAL.get(key, ()))
    return value is not None and value is not False and not neutral


def run_id(config: dict[str, Any]) -> str:
    """<model>[-d<depth>]-lr<lr>-s<seed>-<hash>: readable, and different whenever a result could be."""
    model, depth, lr, seed = config["model"]["name"], config["depth"], config["lr"], config["seed"]
    blocks = "" if depth is None else f"-d{depth}"
    return f"{model}{blocks}-lr{lr:g}-s{seed}-{config_hash(config)}"


@dataclass(frozen=True)
class Run:
    """One training: its configuration (plain dicts) and its folder."""

    config: dict[str, Any]

    @cached_property
    def id(self) -> str:
        return run_id(self.config)

    @property
    def study(self) -> Path:
        return Path(self.config["runs"]) / self.config["study"]

    @property
    def folder(self) -> Path:
        return self.study / self.id

    @property
    def labels(self) -> dict[str, Any]:
        """The keys people sweep, flat."""
        swept = {key: self.config[key] for key in ("depth", "lr", "pool", "pos_emb", "seed")}
        return {"model": self.config["model"]["name"], "data": self.config["data"]["name"], **swept}

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def result(self) -> dict[str, Any] | None:
        """The content of result.json; None if there is none."""
        return read_result(self.folder)

    def begin(self) -> None:
        """Make the folder and remove the earlier result; with `rerun=true`, everything a complete training left.

        Not what an incomplete one left: `rerun=true` may have begun it, and the same command goes on.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        stale = ["traceback.txt", f"**/{atomic.TEMPORARY}", "result.json"]
        if self.config["rerun"] and (self.result() or {}).get("status") in COMPLETE:
            # before the result: it says that there is something to train again
            tables = ["metrics.csv", "steps.csv", "instruments.csv", "csv/*/*"]
            stale = [*tables, "*_run_id", "events.out.tfevents.*", "**/*.ckpt", *stale]
        for path in (path for pattern in stale for path in self.folder.glob(pattern)):
            path.unlink()
        atomic.write_text(self.folder / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))

    def discard_checkpoints(self) -> None:
        """Delete the checkpoints that `checkpoint.keep` does not name."""
        kept = {"all": ("best", "last", "previous"), "none": ()}
        keep = self.config["checkpoint"]["keep"]
        for path in self.checkpoints.glob("*.ckpt"):
            if path.stem in ("best", "last", "previous") and path.stem not in kept.get(keep, (keep,)):
                path.unlink()

    def finish(self, status: str, **content: Any) -> dict[str, Any]:
        """Write result.json and return its content."""
        result = {"status": status, **content, "vitbn": __version__, "config_hash": config_hash(self.config)}
        result = finite(result | {"run": self.labels})
        atomic.write_json(self.folder / "result.json", result)
        return result


def read_result(folder: Path) -> dict[str, Any] | None:
    """The content of the run's result.json; None if there is none, or none that can be read."""
    path = folder / "result.json"
    try:
        result = read_json(path)
    except FileNotFoundError:
        return None
    except (InputError, OSError) as error:
        log.warning(f"{describe(error)}; taken for missing")
        return None
    if result.get("status") not in RESULT_STATUSES:
        log.warning(f"{path}: its status is none of {', '.join(RESULT_STATUSES)}; taken for missing")
        return None
    return result


def finite(tree: Any) -> Any:
    """The same tree with NaN and infinities as None: JSON has no word for them."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def last_line(error: Any) -> str | None:
    """The last line of a traceback; None for none."""
    lines = str(error or "").strip().splitlines()
    return lines[-1] if lines else None


def skipped_line(run: Run, status: str, typed: Iterable[str]) -> str:
    """Says that a complete run is not trained again, and which of the typed overrides therefore had no effect."""
    training_only = re.compile(r"\+*(logger|log_every|callbacks=.*\binstruments|callbacks\.instruments)\b")
    idle = [text for text in typed if training_only.match(text)]
    unused = f"; nothing is logged then, {' '.join(idle)} has no effect" if idle else ""
    return f"{run.folder}: {status}, skipped (rerun=true trains it again){unused}"


def run_folders(study: Path) -> list[Path]:
    """The folders of a study that hold a run."""
    return sorted(path.parent for path in study.glob("*/config.yaml"))


def warn_of_renamed_runs(study: Path) -> None:
    """Say so if the study has runs of an early 0.1.0, which named the same runs otherwise; looks at one of them."""
    config = next(study.glob("*/config.yaml"), None)
    if config is not None and "matmul_precision:" not in config.read_text(errors="replace"):
        log.warning(
            f"{study}: has runs of an earlier version, whose names differ, so that none of them counts as done; "
            "report and claims still read them, study=NAME keeps the new ones apart"
        )
