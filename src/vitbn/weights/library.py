"""Weights to start a network of another library from: its own published ones, a file, a folder, a hub ID or a run."""

import json
import logging
import math
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitbn.data.download import download_folder
from vitbn.errors import InputError
from vitbn.models.factory import build, constructor_options
from vitbn.models.libraries import HuggingFace, hf_config
from vitbn.models.surgery import replace_norms
from vitbn.weights import containers
from vitbn.weights.files import CONFIG, PREPROCESSOR
from vitbn.weights.hub import locate
from vitbn.weights.layouts import State
from vitbn.weights.network import load_state
from vitbn.weights.runs import is_run, per_channel, read_run_weights

log = logging.getLogger("vitbn")
TIMEOUT = 20  # seconds that a server may say nothing
HEADS = ("head", "fc", "classifier", "head.fc")  # timm's, of all times
HEAD = re.compile(r"(^|\.)(heads?|head_dist|fc|classifier|distillation_classifier|cls_classifier)(\.|$)")
# fields of Hugging Face's configurations that leave the function of equal weights alone, or that are adapted
ADAPTED = ("image_size", "num_channels", "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate",
           "initializer_range", "encoder_stride", "pooler_act", "pooler_output_size")  # fmt: skip


def load_library_weights(net: nn.Module, config: dict[str, Any]) -> None:
    """Start `net`, built from `config["model"]`, from the weights that model.pretrained names; adaptations are logged.

    Norms that were put in start fresh, unless the weights are those of a network with the same norms.
    InputError says what does not fit.
    """
    model = config["model"]
    complaint = f"model.pretrained={json.dumps(model['pretrained']).strip(chr(34))}"
    plain = build({**model, "placement": {}}, seed=config["seed"])
    path = (
        locate(model["pretrained"]) if model["pretrained"] is not True else _published(model["library"], model["name"])
    )
    if is_run(path):
        weights = read_run_weights(path)
        state, said = weights.state, {"mean": weights.mean, "std": weights.std}
    else:
        state, said = _read(path, (net, plain), model, complaint), _standardisation(path)
    log.info(f"{path}: initial weights")
    target = net if state.keys() == net.state_dict().keys() else plain
    load_state(target, adapted(state, target, model["num_classes"]), f"{complaint}: does not fit")
    if target is plain:
        net.load_state_dict(replace_norms(plain, constructor_options(model)["placement"]).state_dict())
    compare_pixels(said, config["data"])


def compare_pixels(said: Mapping[str, tuple[float, ...]], data: Mapping[str, Any]) -> None:
    """A warning if `data` gives the pixels another mean or standard deviation, per channel, than the weights want."""
    for key, values in said.items():
        if per_channel(data[key], len(values)) != values:
            log.warning(f"data.{key}={data[key]}: the weights were trained with {', '.join(map(str, values))}")


def _published(library: str, name: str) -> Path:
    """The library's own weights of a network, fetched unless they are here."""
    if library == "timm":
        known = import_module("timm").get_pretrained_cfg(name)
        if known is None or not known.hf_hub_id:
            raise InputError(f"model.pretrained=true: timm publishes no weights of {name}")
        return locate(known.hf_hub_id)
    weights = import_module("torchvision").models.get_model_weights(name).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not file.is_file():
        remedy = f"fetch {weights.url} elsewhere and type model.pretrained=FILE"
        with download_folder(file.parent, file.name, remedy) as folder, _patience(TIMEOUT):
            checksum = file.stem.rpartition("-")[2]
            torch.hub.download_url_to_file(weights.url, str(folder / file.name), checksum)
            (folder / file.name).replace(file)
    return file


@contextmanager
def _patience(seconds: float):  # type: ignore[no-untyped-def]
    """torch.hub has no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read(path: Path, nets: Sequence[nn.Module], model: dict[str, Any], complaint: str) -> State:
    """What a file or folder holds, under the names that one of these networks has."""
    if model["library"] == "hf" and path.is_dir():
        return _of_hugging_face(path, nets[0], model["name"], complaint)
    state = containers.read(containers.weights_file(path)).tensors
    if model["library"] == "timm" and not any(state.keys() == net.state_dict().keys() for net in nets):
        return _of_timm(state, model, complaint)
    return state


def _of_timm(state: State, model: dict[str, Any], complaint: str) -> State:
    """As timm itself reads them: older names are translated, positions and first kernels adapted."""
    options = constructor_options(model)
    for key in ("library", "placement"):
        del options[key]
    name, image_size, channels = (options.pop(key) for key in ("name", "image_size", "channels"))
    timm = import_module("timm")
    classes = next((len(state[f"{head}.weight"]) for head in HEADS if f"{head}.weight" in state), 0)
    published = timm.get_pretrained_cfg(name)
    sized = {"img_size": image_size} if published.fixed_input_size else {}
    overlay = {"state_dict": state, "custom_load": False, "num_classes": classes, "label_offset": 0}
    try:
        net = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay,
            **{**sized, **options, "in_chans": channels, "num_classes": classes},
        )  # fmt: skip
    except Exception as error:  # whatever its filters and torch raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{complaint}: is not of model.name={name} ({reason})") from None
    return net.state_dict()


def _of_hugging_face(folder: Path, net: Any, name: str, complaint: str) -> State:
    """As transformers itself reads them, from safetensors alone; of config.json only the network's own fields count."""
    transformers = import_module("transformers")
    said = containers.read_json(folder / CONFIG)
    if not said:
        raise InputError(f"{complaint}: a folder with Hugging Face's {CONFIG} and model.safetensors, or a hub ID")
    if said.get("model_type") != name:
        raise InputError(f"{complaint}: is of another network; type model.name={str(said.get('model_type'))[:40]}")
    ours = net.model.config
    fields = [field for field in type(ours).__annotations__ if not field.startswith("_")]
    theirs = {field: said[field] for field in fields if field in said}
    differing = {
        field: value for field, value in theirs.items() if field not in ADAPTED and getattr(ours, field) != value
    }
    if differing:
        typed = " ".join(f"+model.{field}={json.dumps(value).replace(' ', '')}" for field, value in differing.items())
        raise InputError(f"{complaint}: is of another network; type {typed}")
    classes = len(said["id2label"]) if isinstance(said.get("id2label"), dict) else said.get("num_labels", 2)
    try:
        source, found = transformers.AutoModelForImageClassification.from_pretrained(
            folder, config=hf_config(name, {}, theirs, classes), use_safetensors=True, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:
        raise InputError(f"{complaint}: cannot be read ({' '.join(str(error).split())[:150]})") from None
    lost = [key for key in found["missing_keys"] if not key.startswith("classifier")]
    if lost:
        raise InputError(f"{complaint}: does not fit; missing: {', '.join(sorted(lost)[:3])}")
    headless = {f"model.{key}" for key in found["missing_keys"]}
    return {key: value for key, value in HuggingFace(source).state_dict().items() if key not in headless}


def _standardisation(path: Path) -> dict[str, tuple[float, ...]]:
    """Mean and standard deviation of the pixels, where files beside the weights say them."""
    folder = path if path.is_dir() else path.parent
    preprocessor, config = (containers.read_json(folder / name) for name in (PREPROCESSOR, CONFIG))
    published = config.get("pretrained_cfg") or {}
    said = {key: preprocessor.get(f"image_{key}", published.get(key)) for key in ("mean", "std")}
    return {key: tuple(map(float, values)) for key, values in said.items() if isinstance(values, list)}


def adapted(state: Mapping[str, Tensor], net: nn.Module, num_classes: int) -> State:
    """The weights for other classes, other image sizes and grey images, as far as that is possible."""
    own, fitted = net.state_dict(), dict(state)
    for path, layer in net.named_modules():
        if not (isinstance(layer, nn.Linear | nn.Conv2d) and len(layer.weight) == num_classes and HEAD.search(path)):
            continue
        there = state.get(f"{path}.weight")
        if there is None or len(there) != num_classes:
            was = 0 if there is None else len(there)
            log.info(f"{path}: starts anew, {num_classes} classes where there were {was}")
            fitted |= {f"{path}.{name}": value for name, value in layer.state_dict().items()}
    for name, value in state.items():
        if name not in own or fitted[name].shape == own[name].shape:
            continue
        wanted = own[name].shape
        if value.ndim == 4 and value.shape[1] == 3 and wanted == (len(value), 1, *value.shape[2:]):
            fitted[name] = value.sum(1, keepdim=True)
            log.info(f"{name}: summed over 3 channels into one")
        elif value.ndim == 3 and (resized := interpolated(value, wanted[1])) is not None:
            fitted[name] = resized
            old, new = math.isqrt(value.shape[1]), math.isqrt(wanted[1])
            log.info(f"{name}: interpolated (bicubic) from {old} x {old} to {new} x {new}")
    return fitted


def interpolated(positions: Tensor, tokens: int) -> Tensor | None:
    """Learned positions (1, T, D) for another number of tokens; None unless both are a square behind equal starts."""
    old, new = math.isqrt(positions.shape[1]), math.isqrt(tokens)
    beginning = positions.shape[1] - old**2
    if len(positions) != 1 or beginning != tokens - new**2 or min(old, new) == 0:
        return None
    first, square = positions.split((beginning, old**2), dim=1)
    grid = square.unflatten(1, (old, old)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([first, grid.flatten(2).transpose(1, 2)], dim=1)
