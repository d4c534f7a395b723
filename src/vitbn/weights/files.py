"""Files of weights: what is in them under our names, and all they say about the network, its input and its labels."""

import json
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
from vitbn.models.factory import constructor_options
from vitbn.store import atomic
from vitbn.store.yaml_file import require_plain
from vitbn.weights import containers, descriptions
from vitbn.weights.translate import translate

OURS = "vitbn"  # the key under which our files say what they are
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"


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
            if not containers.is_state(self.state):
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
        reason = " ".join(str(error).split())[:150] or type(error).__name__
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
    """A file of weights, a folder with one or with an index of several; config.json beside it is read if present.

    Nothing in the files is executed. InputError names the file, and what in it is unknown, missing or not understood.
    """
    file = containers.weights_file(path)
    content = containers.read(file)
    if OURS in content.metadata:
        return _read_ours(file, content.tensors, content.metadata[OURS])
    beside = file.with_name(CONFIG)
    config, preprocessor = (containers.read_json(place) for place in (beside, file.with_name(PREPROCESSOR)))
    config = content.said | config
    with readable(file):
        layout, state, options = translate(content.tensors, file, config.get("channels"))
    with readable(beside):
        descriptions.require_understood(config, layout, beside if beside.exists() else file)
        options = descriptions.described(config, layout, options, file)
        if options["pos_emb"] != "learn":
            del state["embedding.positions.table"]
        labels = descriptions.labels(config, layout, options["num_classes"])
        mean, std = descriptions.mean_and_std(config, preprocessor, layout, file)
    channels = options["channels"]
    return Weights(state, options, labels, mean[:channels], std[:channels], file)


def _read_ours(file: Path, state: dict[str, Tensor], text: str) -> Weights:
    """A file of `write`, or of vitbn export."""
    with readable(file):
        description = json.loads(text)
        require_plain({key: value for key, value in description.items() if key != "labels"}, str(file))
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
    options = constructor_options(model)
    name = architecture(model["_target_"])
    check_options(name, options)
    return name, options
