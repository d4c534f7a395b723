"""One loader for everything that uses a trained network: the network, how images become its input, its labels."""

from dataclasses import dataclass
from inspect import isfunction
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from vitbn.data.batches import Pixels
from vitbn.errors import InputError
from vitbn.models.bn_statistics import put
from vitbn.models.factory import build
from vitbn.store import checkpoint_file as sealed
from vitbn.weights.files import CONFIG, Weights, read
from vitbn.weights.hub import locate


@dataclass(frozen=True)
class Network:
    """A network in evaluation mode, in float32 on the CPU, with what it takes to use it."""

    net: nn.Module
    labels: tuple[str, ...]
    image_size: int
    channels: int
    mean: tuple[float, ...]  # of each channel, for pixels in [0, 1]
    std: tuple[float, ...]
    config: dict[str, Any]  # of the run; imported weights have only its part `model`
    source: Path  # the file the weights are from

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images (B, channels, K, K) as the network's input, float32 (B, channels, image_size, image_size)."""
        return Pixels(self.mean, self.std, self.image_size)(images, None)

    def standardise(self, images: Tensor) -> Tensor:
        """Images in [0, 1] and of the right size as the network's input."""
        mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (self.mean, self.std))
        return (images - mean) / std


def load_network(place: Path | str) -> Network:
    """The network of a run (its folder: the newest checkpoint; or one of its checkpoint files), or imported weights.

    `place` can also be what model.pretrained takes. Nothing in the files is executed. InputError names what is
    missing, damaged or does not fit.
    """
    path = locate(place)
    if not is_run(path):
        return _of_weights(read(path))
    return _of_run(path, newest(path)) if path.is_dir() else _of_run(_folder(path), path)


def is_run(path: Path) -> bool:
    """Whether it is the folder of a run or a checkpoint; anything else are weights from elsewhere."""
    return (path / "config.yaml").is_file() if path.is_dir() else path.suffix == ".ckpt"


def _folder(checkpoint: Path) -> Path:
    for folder in checkpoint.absolute().parents[:2]:
        if (folder / "config.yaml").is_file():
            return folder
    raise InputError(f"{checkpoint}: there is no config.yaml beside it; give a checkpoint inside its run's folder")


def newest(folder: Path) -> Path:
    """The newest whole checkpoint of a run: the weights whose figures result.json has."""
    found = sealed.newest_whole(folder / "checkpoints")
    if found is None:
        raise InputError(f"{folder}: no whole checkpoint in {folder / 'checkpoints'}; train it first")
    return found


def _of_run(folder: Path, file: Path) -> Network:
    config = read_config(folder / "config.yaml")
    checkpoint = sealed.load(file)
    if not sealed.is_whole(file):
        raise InputError(f"{file}: damaged, its SHA-256 does not match; use another checkpoint of the run")
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise InputError(f"{file}: not a checkpoint of a run")
    net = build(config["model"], seed=0)
    state = {name.removeprefix("net."): w for name, w in checkpoint["state_dict"].items() if name.startswith("net.")}
    fit(net, state, f"{file}: not a checkpoint of the network in {folder / 'config.yaml'}")
    if used := checkpoint.get("callbacks", {}).get("recalibrate_bn", {}).get("used"):
        put(net, used)  # recalibrate_bn=true: the state_dict has the running averages, from which training goes on
    data, labels = config["data"], checkpoint.get("ImageData", {}).get("classes")
    return Network(
        net.eval(), tuple(labels or map(str, range(data["num_classes"]))), data["image_size"], data["channels"],
        per_channel(data["mean"], data["channels"]), per_channel(data["std"], data["channels"]), config, file,
    )  # fmt: skip


def _of_weights(weights: Weights) -> Network:
    options = weights.options
    if "heads" not in options:
        remedy = f'put {CONFIG} with {{"num_attention_heads": ...}} beside it'
        raise InputError(f"{weights.source}: nothing tells how many heads it has; {remedy}")
    if not options["num_classes"]:
        raise InputError(f"{weights.source}: has no classifier; train one with model.pretrained={weights.source}")
    config = weights.config or {"model": {"name": "imported", "_target_": "vitbn.VisionTransformer", **options}}
    _check_targets(weights.source, config)
    try:
        net = build(config["model"], seed=0)
    except InputError as error:
        raise InputError(f"{weights.source}: describes no network ({error})") from None
    fit(net, weights.state, f"{weights.source}: not the weights of a whole network")
    size, channels = options["image_size"], options["channels"]
    return Network(net.eval(), weights.labels, size, channels, weights.mean, weights.std, config, weights.source)


def per_channel(value: Any, channels: int) -> tuple[float, ...]:
    """One number for every channel, given one for all or one for each."""
    return tuple(map(float, value)) if isinstance(value, list | tuple) else (float(value),) * channels


def fit(net: nn.Module, state: dict[str, Tensor], complaint: str) -> None:
    """Load `state` into `net`; InputError opens with the complaint and lists what is missing, unknown or misshapen."""
    own = net.state_dict()
    wrong = {
        "missing": sorted(own.keys() - state.keys()),
        "unknown": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
            for name in sorted(own.keys() & state.keys())
            if state[name].shape != own[name].shape
        ],
    }
    if any(wrong.values()):
        listed = "; ".join(f"{what}: {', '.join(names)}" for what, names in wrong.items() if names)
        raise InputError(f"{complaint}; {listed}")
    net.load_state_dict(state)


def read_config(file: Path) -> dict[str, Any]:
    """A run's config.yaml; InputError if it is none, or names as its network something that is no network."""
    try:
        config = yaml.safe_load(file.read_text())
        _ = config["model"], config["data"]["image_size"]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError):
        raise InputError(f"{file}: not the config.yaml of a run") from None
    _check_targets(file, config)
    return config


def _check_targets(file: Path, config: dict[str, Any]) -> None:
    for target in _targets(config["model"]):
        if not _is_network(target):
            raise InputError(f"{file}: refused, {target} is not a network")


def _targets(tree: Any) -> Any:
    """Everything the configuration asks to be called."""
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    if isinstance(tree, dict) and "_target_" in tree:
        yield tree["_target_"]
    for child in children:
        yield from _targets(child)


def _is_network(target: str) -> bool:
    """Whether calling it only makes a network: a module class, or a function of vitbn's or torchvision's models."""
    from hydra.utils import get_object

    try:
        found = get_object(target)
    except Exception:  # whatever importing a name from a stranger's file does
        return False
    if isinstance(found, type):
        return issubclass(found, nn.Module)
    return isfunction(found) and found.__module__.startswith(("vitbn.models.", "torchvision.models."))
