"""Weights of another network as the start of a training: `model.pretrained=PATH_OR_ID`."""

import json
import logging
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitbn.errors import InputError
from vitbn.models.factory import NOT_OPTIONS
from vitbn.models.placements import PLACEMENTS, complete
from vitbn.models.vit import VisionTransformer
from vitbn.weights.files import Weights, read
from vitbn.weights.hub import locate
from vitbn.weights.network import Network, fit, is_run, load_network, per_channel

log = logging.getLogger("vitbn")
BARE = ("depth", "pool", "pos_emb")  # keys of the model that people type without `model.`
ADAPTED = ("image_size", "channels", "num_classes", "dropout", "emb_dropout")


def load_pretrained(net: nn.Module, config: dict[str, Any]) -> None:
    """Start `net`, built from `config["model"]`, from the weights that model.pretrained names; adaptations are logged.

    Positions are interpolated (bicubic, antialiased), the kernels of the colours summed for grey images, a head of
    other classes left as it is. InputError says what to type if it is another network.
    """
    model, data = config["model"], config["data"]
    weights = weights_of(model["pretrained"])
    complaint = f"model.pretrained={model['pretrained']}"
    if not isinstance(net, VisionTransformer):
        raise InputError(f"{complaint}: model={model['name']} is no Vision Transformer")
    _same_network(weights.options, model, complaint)
    log.info(f"{weights.source}: initial weights")
    state = dict(weights.state)
    _resize_positions(state, net)
    if model["channels"] == 1 and weights.options["channels"] > 1:
        _sum_channels(state, weights.options["channels"])
    if weights.options["num_classes"] != model["num_classes"]:
        fresh = {f"head.{name}": value for name, value in net.head.state_dict().items()}
        state |= fresh
        log.info(f"head: starts anew, {model['num_classes']} classes where there were {weights.options['num_classes']}")
    fit(net, state, f"{complaint}: does not fit")
    for key, theirs in (("mean", weights.mean), ("std", weights.std)):
        if per_channel(data[key], len(theirs)) != theirs:
            log.warning(f"data.{key}={data[key]}: the weights were trained with {', '.join(map(str, theirs))}")


def weights_of(place: str) -> Weights:
    """The weights of a file, a folder, a hub ID or one of our runs; InputError for a network that is no ViT."""
    path = locate(place)
    if not is_run(path):
        return read(path)
    run = load_network(path)
    return Weights(run.net.state_dict(), vit_options(run), run.labels, run.mean, run.std, run.source)


def vit_options(network: Network) -> dict[str, Any]:
    """What its VisionTransformer was made with; InputError if it is another kind of network."""
    model = network.config["model"]
    if not isinstance(network.net, VisionTransformer):
        raise InputError(f"{network.source}: {model['name']} is no Vision Transformer")
    return {key: value for key, value in model.items() if key not in (*NOT_OPTIONS, "_target_")}


def to_type(options: dict[str, Any]) -> dict[str, str]:
    """Option of a VisionTransformer -> what asks train.py for it."""
    typed = {key: f"{'' if key in BARE else 'model.'}{key}={json.dumps(value).strip(chr(34))}"
             for key, value in options.items() if key != "placement"}  # fmt: skip
    kinds = complete(options["placement"])
    name = next((name for name, placement in PLACEMENTS.items() if complete(placement) == kinds), None)
    return typed | {"placement": f"norm={name}" if name else " ".join(f"norm.{s}={k}" for s, k in kinds.items())}


def _same_network(theirs: dict[str, Any], ours: dict[str, Any], complaint: str) -> None:
    typed = to_type(theirs)
    differing = [
        key for key in theirs
        if key not in ADAPTED and (theirs[key] != ours.get(key) if key != "placement"
                                   else complete(theirs[key]) != complete(ours[key]))
    ]  # fmt: skip
    if differing:
        raise InputError(f"{complaint}: is of another network; type {' '.join(typed[key] for key in differing)}")


def _resize_positions(state: dict[str, Tensor], net: VisionTransformer) -> None:
    """Interpolate learned positions to the net's number of patches as timm does; CLS keeps its own."""
    name = "embedding.positions.table"
    if name not in state:
        return
    cls, table = state[name].split((1, state[name].shape[1] - 1), dim=1)
    old, new = math.isqrt(table.shape[1]), net.embedding.grid
    if old == new:
        return
    square = table.unflatten(1, (old, old)).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=(new, new), mode="bicubic", align_corners=False, antialias=True)
    state[name] = torch.cat([cls, square.flatten(2).transpose(1, 2)], dim=1)
    log.info(f"positions: interpolated (bicubic) from {old} x {old} to {new} x {new}")


def _sum_channels(state: dict[str, Tensor], channels: int) -> None:
    """The kernel for grey images that gives what the colours' gave for the same grey in every channel."""
    name = "embedding.project.weight"  # D (p1 p2 c)
    state[name] = state[name].unflatten(1, (-1, channels)).sum(-1)
    log.info(f"patch kernels: summed over {channels} channels into one")
