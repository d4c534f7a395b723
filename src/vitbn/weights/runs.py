"""Runs: the weights in a checkpoint, described by the config.yaml and the class names beside them."""

from pathlib import Path
from typing import Any

from torch import Tensor

from vitbn.errors import InputError
from vitbn.store import checkpoint_file
from vitbn.store.run import COMPLETE, read_result
from vitbn.store.yaml_file import read_yaml
from vitbn.weights.containers import at_least_float32
from vitbn.weights.files import Weights, described_network, readable

RECALIBRATED = ("recalibrate_bn", "PreciseStatistics")  # name of the callback's state, and its name in older runs


def is_run(path: Path) -> bool:
    """Whether it is the folder of a run or a checkpoint in one; anything else are weights from elsewhere."""
    if path.is_dir():
        return (path / "config.yaml").is_file()
    return path.suffix == ".ckpt" and (checkpoint_file.is_sealed(path) or described_by(path) is not None)


def read_run_weights(path: Path) -> Weights:
    """The newest checkpoint of a run's folder, or one of its checkpoint files; InputError names what does not fit."""
    folder, file = (path, newest_checkpoint(path)) if path.is_dir() else (described_by(path), path)
    if folder is None:
        raise InputError(f"{path}: there is no config.yaml beside it; give a checkpoint inside its run's folder")
    if not file.is_file():
        raise InputError(f"{file}: not a regular file")
    config_file = folder / "config.yaml"
    config = read_yaml(config_file)
    if not isinstance(config, dict) or not all(isinstance(config.get(key), dict) for key in ("model", "data")):
        raise InputError(f"{config_file}: not the config.yaml of a run")
    with readable(config_file):
        name, options = described_network(config)
        channels = options["channels"]
        mean, std = (per_channel(config["data"][key], channels) for key in ("mean", "std"))
    checkpoint = checkpoint_file.load(file)
    if not checkpoint_file.is_valid(file):
        raise InputError(f"{file}: damaged, its SHA-256 does not match; use another checkpoint of the run")
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise InputError(f"{file}: not a checkpoint of a run")
    with readable(file):
        labels = checkpoint.get("ImageData", {}).get("classes") or map(str, range(options["num_classes"]))
        return Weights(_evaluated(checkpoint), options, tuple(labels), mean, std, file, config, name)


def newest_checkpoint(folder: Path) -> Path:
    """The newest whole checkpoint of a run: the weights whose figures result.json has; or best.ckpt, if that is all."""
    newest = checkpoint_file.latest_valid_checkpoint(folder / "checkpoints")
    best = folder / "checkpoints" / checkpoint_file.BEST
    if newest is None and checkpoint_file.is_valid(best):
        return best
    if newest is None and (read_result(folder) or {}).get("status") in COMPLETE:
        remedy = "train it with rerun=true checkpoint.keep=last"
        raise InputError(f"{folder}: its checkpoints were not kept (checkpoint.keep); {remedy}")
    if newest is None:
        raise InputError(f"{folder}: no whole checkpoint in {folder / 'checkpoints'}; train it first")
    return newest


def run_folder(checkpoint: Path) -> Path:
    """The folder a checkpoint belongs to: its run's."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def per_channel(value: Any, channels: int) -> tuple[float, ...]:
    """One number for every channel, given one for all or one for each."""
    return tuple(map(float, value)) if isinstance(value, list | tuple) else (float(value),) * channels


def _evaluated(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The network's state as the last validation used it."""
    prefix = "net."
    state = {n.removeprefix(prefix): value for n, value in checkpoint["state_dict"].items() if n.startswith(prefix)}
    # with recalibrate_bn=true the state has the running averages, from which training goes on
    callbacks = checkpoint.get("callbacks", {})
    for name in RECALIBRATED:
        for norm, (mean, var) in callbacks.get(name, {}).get("used", {}).items():
            state |= {f"{norm}.running_mean": mean, f"{norm}.running_var": var}
    return at_least_float32(state)


def described_by(checkpoint: Path) -> Path | None:
    """The folder with the config.yaml of a checkpoint."""
    return next((folder for folder in checkpoint.absolute().parents[:2] if (folder / "config.yaml").is_file()), None)
