"""Weights of another network as the start of a training: `model.pretrained=PATH_OR_ID`."""

import json
import logging
from typing import Any

from torch import Tensor, nn

from vitbn.errors import InputError
from vitbn.models import vit
from vitbn.models.architectures import VISION_TRANSFORMERS
from vitbn.models.placements import complete, named, named_placements
from vitbn.models.vit import VisionTransformer
from vitbn.norms.kinds import as_typed
from vitbn.weights.files import Weights, readable
from vitbn.weights.library import adapted, compare_pixels, load_library_weights
from vitbn.weights.network import load_state, read_weights

log = logging.getLogger("vitbn")
BARE = ("depth", "pool", "pos_emb")  # keys of the model that people type without `model.`
ADAPTED = ("image_size", "channels", "num_classes", "dropout", "emb_dropout")


def load_pretrained(net: nn.Module, config: dict[str, Any]) -> None:
    """Start `net`, built from `config["model"]`, from the weights that model.pretrained names; adaptations are logged.

    Positions are interpolated (bicubic, antialiased), the kernels of the colours summed for grey images, a head of
    other classes left as it is. InputError says what to type if it is another network.
    """
    model, data = config["model"], config["data"]
    complaint = f"model.pretrained={model['pretrained']}"
    if "library" in model:
        load_library_weights(net, config)
        return
    if not isinstance(net, VisionTransformer):
        raise InputError(f"{complaint}: model={model['name']} is no Vision Transformer")
    weights = read_weights(model["pretrained"])
    options = vit_options(weights)
    _require_same_network(options, model, complaint)
    log.info(f"{weights.source}: initial weights")
    state = dict(weights.state)
    with readable(weights.source):
        if model["channels"] == 1 and options["channels"] > 1:
            _sum_channels(state, options["channels"])
        state = adapted(state, net, model["num_classes"])
    load_state(net, state, f"{complaint}: does not fit")
    compare_pixels({"mean": weights.mean, "std": weights.std}, data)


def vit_options(weights: Weights) -> dict[str, Any]:
    """What makes its VisionTransformer, with the placement; InputError if it is another kind of network."""
    if weights.architecture not in VISION_TRANSFORMERS:
        raise InputError(f"{weights.source}: {weights.architecture} is no Vision Transformer")
    default = getattr(vit, weights.architecture).placement
    return {**weights.options, "placement": weights.options.get("placement", default)}


def model_overrides(options: dict[str, Any]) -> dict[str, str]:
    """Option of a VisionTransformer -> the overrides of train.py that ask for it."""
    if "library" in options:
        return _library_overrides(options)
    overrides = {key: f"{'' if key in BARE else 'model.'}{key}={json.dumps(value).strip(chr(34))}"
                 for key, value in options.items() if key != "placement"}  # fmt: skip
    kinds = complete(options["placement"])
    name = next((name for name in named_placements() if named(name) == kinds), None)
    typed = f"norm={name}" if name else " ".join(f"norm.{slot}={as_typed(kind)}" for slot, kind in kinds.items())
    return overrides | {"placement": typed}


def _library_overrides(options: dict[str, Any]) -> dict[str, str]:
    typed = {"library": "model={}", "name": "model.name={}", "depth": "depth={}"}
    overrides = {key: typed.get(key, f"+model.{key}={{}}").format(json.dumps(value).replace(" ", "").strip(chr(34)))
                 for key, value in options.items() if key != "placement"}  # fmt: skip
    return overrides | {"placement": " ".join(f"norm.{slot}={kind}" for slot, kind in options["placement"].items())}


def _require_same_network(theirs: dict[str, Any], ours: dict[str, Any], complaint: str) -> None:
    overrides = model_overrides(theirs)
    differing = [
        key for key in theirs
        if key not in ADAPTED and (theirs[key] != ours.get(key) if key != "placement"
                                   else complete(theirs[key]) != complete(ours[key]))
    ]  # fmt: skip
    if differing:
        raise InputError(f"{complaint}: is of another network; type {' '.join(overrides[key] for key in differing)}")


def _sum_channels(state: dict[str, Tensor], channels: int) -> None:
    """The kernel for grey images that gives what the colours' gave for the same grey in every channel."""
    name = "embedding.project.weight"  # D (p1 p2 c)
    state[name] = state[name].unflatten(1, (-1, channels)).sum(-1)
    log.info(f"patch kernels: summed over {channels} channels into one")
