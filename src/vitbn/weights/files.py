"""Files of weights: what is in them under our names, and all they say about the network, its input and its labels."""

import json
import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vitbn.errors import InputError
from vitbn.models.architectures import architecture, check_options
from vitbn.models.factory import NOT_OPTIONS
from vitbn.store import atomic, checkpoint_file
from vitbn.store.yaml_file import require_plain
from vitbn.weights.layouts import TORCHVISION, Layout, translate

log = logging.getLogger("vitbn")
OURS = "vitbn"  # the key under which our files say what they are
MODEL, CONFIG, PREPROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
# width: heads, of the published sizes Ti, S, B, L and H (Dosovitskiy et al., 2021; Touvron et al., 2021)
PUBLISHED_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}


@dataclass(frozen=True)
class Weights:
    """Weights under our names and a checked description of their network; InputError for one that makes no sense."""

    state: dict[str, Tensor]
    options: dict[str, Any]  # of the architecture; of imported weights without heads and dim_head if nothing tells them
    labels: tuple[str, ...]
    mean: tuple[float, ...]  # of each channel, for pixels in [0, 1]
    std: tuple[float, ...]
    source: Path
    config: dict[str, Any] = field(default_factory=dict)  # of the run they are from, if any
    architecture: str = "VisionTransformer"  # its name in vitbn.models.architectures

    def __post_init__(self) -> None:
        with readable(self.source):
            if not _is_state(self.state):
                raise ValueError("not a dictionary of weights")
            check_options(self.architecture, self.options)
            channels, num_classes = self.options["channels"], self.options["num_classes"]
            if len(self.labels) != num_classes or not all(isinstance(label, str) for label in self.labels):
                raise ValueError(f"labels are not {num_classes} names")
            if not (_are_numbers(self.mean, channels) and _are_numbers(self.std, channels) and min(self.std) > 0):
                raise ValueError(f"mean and std are not {channels} finite numbers each, std above 0")


def _are_numbers(values: tuple[Any, ...], count: int) -> bool:
    return len(values) == count and all(isinstance(value, int | float) and math.isfinite(value) for value in values)


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn whatever a description that fits nothing leads to into an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{file}: what it says about itself cannot be read: {error} is missing") from None
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{file}: what it says about itself cannot be read: {reason}") from None


def write(weights: Weights) -> None:
    """The file weights.source, which describes itself."""
    atomic.write(weights.source, lambda file: file.write(pack(weights)))


def pack(weights: Weights) -> bytes:
    """A safetensors file that describes itself."""
    from safetensors.torch import save

    description = {name: getattr(weights, name) for name in ("options", "labels", "mean", "std", "config")}
    tensors = {name: tensor.contiguous() for name, tensor in weights.state.items()}
    return save(tensors, {OURS: json.dumps(description)})


def read_weights_file(path: Path) -> Weights:
    """A .safetensors or .pth file, or a folder with model.safetensors; config.json beside it is read if present.

    Nothing in the files is executed. InputError names the file, and lists weights that are unknown or missing.
    """
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: neither a run (config.yaml) nor weights ({MODEL})")
    tensors, metadata = _tensors(file)
    if OURS in metadata:
        return _read_ours(file, tensors, metadata[OURS])
    with readable(file):
        layout, state, options = translate(tensors, file)
    config, preprocessor = _json(file.with_name(CONFIG)), _json(file.with_name(PREPROCESSOR))
    with readable(file.with_name(CONFIG)):
        _refuse_other_functions(config, file)
        options |= _heads(config, options["dim"], options.pop("inner"), file)
        if "layer_norm_eps" in config:
            options["norm_eps"] = config["layer_norm_eps"]
        labels = _labels(config, layout, options)
        mean, std = _mean_and_std(config, preprocessor, layout, file)
    channels = options["channels"]
    return Weights(state, options, labels, mean[:channels], std[:channels], file)


def _read_ours(file: Path, state: dict[str, Tensor], text: str) -> Weights:
    """A file of `write`, or of vitbn export."""
    with readable(file):
        description = json.loads(text)
        require_plain(description, str(file))
        labels, mean, std = (tuple(description[name]) for name in ("labels", "mean", "std"))
        options, config = description["options"], description.get("config", {})
        if not config:
            return Weights(state, options, labels, mean, std, file)
        if isinstance(config.get("data"), dict):  # where images lie and caches go is no business of such a file
            config["data"] = {key: value for key, value in config["data"].items() if key not in ("root", "cache")}
        name, options = described_network(config)
    return Weights(state, options, labels, mean, std, file, config, name)


def described_network(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Architecture and checked options of a run's network; ValueError, TypeError or KeyError for anything else."""
    model = config["model"]
    if not isinstance(model, dict) or not re.fullmatch(r"[\w .+-]{1,100}", model["name"]):
        raise ValueError("model is not a named network")
    if not isinstance(config.get("data", {}), dict):
        raise ValueError("data is not a group of keys")
    if type(batch_size := config.get("batch_size", 1)) is not int or batch_size < 1:
        raise ValueError("batch_size is not a whole number above 0")
    options = {key: value for key, value in model.items() if key not in (*NOT_OPTIONS, "_target_")}
    name = architecture(model["_target_"])
    check_options(name, options)
    return name, options


def _tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The file's weights and its own metadata."""
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt") as opened:
                content = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                metadata = opened.metadata() or {}
        except SafetensorError as error:
            raise InputError(f"{file}: damaged, or no safetensors file ({error})") from None
    else:
        content, metadata = checkpoint_file.load(file), {}
    for wrapping in ("state_dict", "model"):  # around the weights, as timm's and DeiT's training scripts save them
        content = content.get(wrapping, content) if isinstance(content, dict) else content
    if not _is_state(content):
        raise InputError(f"{file}: not a dictionary of weights")
    return content, metadata


def _is_state(content: Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(name, str) and name.isprintable() and isinstance(value, Tensor) for name, value in content.items()
    )


def _json(file: Path) -> dict[str, Any]:
    """A dictionary, empty if there is no such file."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: not a configuration")
    return content


def _refuse_other_functions(config: dict[str, Any], file: Path) -> None:
    """What the weights cannot show: equal names and shapes, another function."""
    if config.get("hidden_act", "gelu") != "gelu":
        raise InputError(f"{file}: hidden_act={config['hidden_act']}; our network has the exact gelu only")
    if config.get("global_pool", "token") != "token":
        raise InputError(f"{file}: global_pool={config['global_pool']}; our network can only read its CLS token")


def _heads(config: dict[str, Any], dim: int, inner: int, file: Path) -> dict[str, int]:
    """heads and dim_head, which share the `inner` features of q; empty if nothing tells them."""
    heads = config.get("num_attention_heads") or config.get("model_args", {}).get("num_heads")
    if heads is None and (heads := PUBLISHED_HEADS.get(dim)):
        log.warning(f"{file}: taken to have {heads} heads, as published networks of width {dim} have")
    return {"heads": heads, "dim_head": inner // heads} if heads else {}


def _mean_and_std(
    config: dict[str, Any], preprocessor: dict[str, Any], layout: Layout, file: Path
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each channel, for pixels in [0, 1]."""
    if preprocessor.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    timm = config.get("pretrained_cfg", {})
    mean = preprocessor.get("image_mean", timm.get("mean"))
    std = preprocessor.get("image_std", timm.get("std"))
    if mean is None or std is None:
        mean, std = layout.mean, layout.std
        log.warning(f"{file}: says nothing of mean and std; taken to be {mean} and {std}, usual for {layout.name}")
    return tuple(mean), tuple(std)


def _labels(config: dict[str, Any], layout: Layout, options: dict[str, Any]) -> tuple[str, ...]:
    """What the outputs mean, or their numbers."""
    names = config.get("id2label") or config.get("label_names") or ()
    if isinstance(names, dict):
        names = [names[number] for number in sorted(names, key=int)]
    if not names and layout is TORCHVISION and options["num_classes"] == 1000:
        from torchvision.models import ViT_B_16_Weights

        names = ViT_B_16_Weights.DEFAULT.meta["categories"]
    return tuple(names) if len(names) == options["num_classes"] else tuple(map(str, range(options["num_classes"])))
