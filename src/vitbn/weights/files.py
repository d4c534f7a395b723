"""Files of weights: what is in them under our names, and all they say about the network, its input and its labels."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vitbn.errors import InputError
from vitbn.store import atomic as durable
from vitbn.store import checkpoint_file as sealed
from vitbn.weights.layouts import TORCHVISION, Layout, translate

log = logging.getLogger("vitbn")
OURS = "vitbn"  # the key under which our files say what they are
MODEL, CONFIG, PREPROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
# width: heads, of the published sizes Ti, S, B, L and H (Dosovitskiy et al., 2021; Touvron et al., 2021)
PUBLISHED_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}


@dataclass(frozen=True)
class Weights:
    """Weights of a VisionTransformer, or of whatever network `config` describes, under our names."""

    state: dict[str, Tensor]
    options: dict[str, Any]  # of VisionTransformer; without heads and dim_head if nothing tells them
    labels: tuple[str, ...]
    mean: tuple[float, ...]  # of each channel, for pixels in [0, 1]
    std: tuple[float, ...]
    source: Path
    config: dict[str, Any] = field(default_factory=dict)  # of the run they are from, if any


def write(weights: Weights) -> None:
    """The file weights.source, which says all by itself."""
    durable.write(weights.source, lambda file: file.write(pack(weights)))


def pack(weights: Weights) -> bytes:
    """A safetensors file that says all by itself."""
    from safetensors.torch import save

    said = {name: getattr(weights, name) for name in ("options", "labels", "mean", "std", "config")}
    tensors = {name: tensor.contiguous() for name, tensor in weights.state.items()}
    return save(tensors, {OURS: json.dumps(said)})


def read(path: Path) -> Weights:
    """A .safetensors or .pth file, or a folder with model.safetensors; config.json beside it is heeded.

    Nothing in the files is executed. InputError names the file, and lists weights that are unknown or missing.
    """
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: neither a run (config.yaml) nor weights ({MODEL})")
    theirs, said = _tensors(file)
    if OURS in said:
        return _own(file, theirs, said[OURS])
    layout, state, options = translate(theirs, file)
    config = _json(file.with_name(CONFIG))
    _refuse_other_functions(config, file)
    inner, args = options.pop("inner"), config.get("model_args", {})
    if "layer_norm_eps" in config:
        options["norm_eps"] = config["layer_norm_eps"]
    heads = config.get("num_attention_heads") or args.get("num_heads")
    if heads is None and (heads := PUBLISHED_HEADS.get(options["dim"])):
        log.warning(f"{file}: taken to have {heads} heads, as published networks of width {options['dim']} have")
    if heads:
        options |= {"heads": heads, "dim_head": inner // heads}
    mean, std = _pixels(config, layout, file)
    channels = options["channels"]
    return Weights(state, options, _labels(config, layout, options), mean[:channels], std[:channels], file)


def _own(file: Path, state: dict[str, Tensor], said: str) -> Weights:
    """A file of `write`, or of vitbn export."""
    try:
        own = json.loads(said)
        labels, mean, std = (tuple(own[name]) for name in ("labels", "mean", "std"))
        options, config = dict(own["options"]), own.get("config", {})
        _ = [options[name] for name in ("image_size", "channels", "num_classes")], config and config["model"]
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{file}: what it says about itself cannot be read; export it anew") from None
    return Weights(state, options, labels, mean, std, file, config)


def _tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The file's weights and its own words about them."""
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
        except SafetensorError as error:
            raise InputError(f"{file}: damaged, or no safetensors file ({error})") from None
    content = sealed.load(file)
    for wrapping in ("state_dict", "model"):  # around the weights, as timm's and DeiT's training scripts save them
        content = content.get(wrapping, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{file}: not a dictionary of weights")
    return content, {}


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
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


def _pixels(config: dict[str, Any], layout: Layout, file: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, for pixels in [0, 1]."""
    said = _json(file.with_name(PREPROCESSOR))
    if said.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    timm = config.get("pretrained_cfg", {})
    mean, std = said.get("image_mean", timm.get("mean")), said.get("image_std", timm.get("std"))
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
