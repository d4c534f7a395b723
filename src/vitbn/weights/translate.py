"""Weights of another library under our names, and the network that their shapes tell."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vitbn.errors import InputError
from vitbn.models.placements import complete
from vitbn.weights.layouts import HUGGING_FACE, TIMM, TORCHVISION, Layout, State
from vitbn.weights.vit_pytorch import VIT_PYTORCH

log = logging.getLogger("vitbn")
LAYOUTS = (HUGGING_FACE, VIT_PYTORCH, TORCHVISION, TIMM)  # a mark of the last is part of others' names
NEEDED = ("embedding.project.weight", "embedding.positions.table", "blocks.0.attention.to_qkv.weight",
          "blocks.0.ffn.fc1.weight", "embedding.cls")  # fmt: skip
EMA = re.compile(r"(^|[._])(ema|averaged?)([._]|$)")  # in the name of averaged weights


def translate(theirs: State, file: Path, channels: int | None = None) -> tuple[Layout, State, dict[str, Any]]:
    """Layout, weights under our names, and the options of our VisionTransformer that their shapes tell.

    The heads are not among them, but `inner`, the features of q. `channels`: where shapes do not tell them.
    InputError lists names that are unknown or missing.
    """
    layout, theirs = _recognise(theirs, file)
    names = layout.ours(theirs)
    if unknown := sorted(name for name, own in names.items() if own is None):
        raise InputError(f"{file}: has what our network has not, unknown: {enumerated(unknown)}")
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise InputError(f"{file}: has twice what our network has once: {enumerated(list(map(str, twice)))}")
    state = _merge_qkv({str(own): theirs[name] for name, own in names.items()})
    if missing := [name for name in NEEDED if name not in state]:
        raise InputError(f"{file}: incomplete, missing: {enumerated(missing)}")
    state = _used(_shaped(state, channels, file), file)
    options = _options(state, file) | {"norm_eps": layout.norm_eps, "placement": complete(layout.placement(state))}
    options["pools_first"] = "mlp_head.0.weight" in theirs  # vit-pytorch's elder norms what it has pooled
    kernel = state["embedding.project.weight"]  # D C p p -> D (p1 p2 c)
    return layout, {**state, "embedding.project.weight": kernel.permute(0, 2, 3, 1).flatten(1)}, options


def enumerated(names: Sequence[str], most: int = 3) -> str:
    """The names, or the first of them and how many more there are; nobody reads a longer list."""
    more = len(names) - most
    return ", ".join(name[:50] for name in names[:most]) + (f" and {more:,} more" if more > 0 else "")


def _recognise(theirs: State, file: Path) -> tuple[Layout, State]:
    """The layout, and the names without what stands before all of them (`module.`, `model.`, `_orig_mod.`, …)."""
    for layout in LAYOUTS:
        marks = (re.fullmatch(rf"((?:.+\.)?){layout.mark}", name) for name in theirs)
        prefixes = sorted({match[1].removesuffix(layout.inner) for match in marks if match})
        if prefixes:
            return layout, _below(_chosen(prefixes, file), prefixes, theirs)
    raise InputError(
        f"{file}: no Vision Transformer of Hugging Face, timm, torchvision or vit-pytorch; "
        f"found {enumerated(list(theirs)) or 'nothing'}"
    )


def _chosen(prefixes: list[str], file: Path) -> str:
    """The prefix of the one network, or of the averaged one beside the one that was trained."""
    if len(prefixes) == 1:
        return prefixes[0]
    averaged = [prefix for prefix in prefixes if EMA.search(prefix)]
    if len(averaged) != 1:
        raise InputError(f"{file}: holds several networks ({enumerated(prefixes)}); keep the weights of one")
    log.warning(f"{file}: holds {enumerated(prefixes)}; the averaged weights {averaged[0]} are taken")
    return averaged[0]


def _below(prefix: str, prefixes: list[str], theirs: State) -> State:
    """The weights of one network; those that belong to none stay under their full names, to be refused."""
    below = {}
    for name, value in theirs.items():
        of = max((known for known in prefixes if name.startswith(known)), key=len, default=None)
        if (of is None or of == prefix) and name.rpartition(".")[
            2
        ] != "n_averaged":  # torch's AveragedModel counts in it
            below[name.removeprefix(of or "")] = value
    return below


def _merge_qkv(state: State) -> State:
    """Queries, keys and values of a block as one matrix and one bias."""
    for query in [name for name in state if ".attention.q." in name]:
        names = [query.replace(".q.", f".{letter}.") for letter in "qkv"]
        if all(name in state for name in names):
            state[query.replace(".q.", ".to_qkv.")] = torch.cat([state.pop(name) for name in names])
    return state


def _shaped(state: State, channels: int | None, file: Path) -> State:
    """CLS and positions (1, tokens, D), kernels D C p p."""
    kernel = state["embedding.project.weight"]
    if kernel.ndim == 2:  # of patches that were flattened as (p1 p2 c)
        features = kernel.shape[1]
        channels = channels or next((c for c in (1, 3) if features % c == 0 and _is_square(features // c)), 0)
        if not channels or features % channels or not _is_square(features // channels):
            raise InputError(f"{file}: patches of {features} values; say how many channels in config.json")
        side = _root(features // channels)
        state["embedding.project.weight"] = kernel.unflatten(1, (side, side, channels)).permute(0, 3, 1, 2)
    for name in ("embedding.cls", "embedding.positions.table"):
        if state[name].ndim == 2:
            state[name] = state[name][None]
    if not state["embedding.cls"].shape[1]:
        raise InputError(f"{file}: has no CLS token; our network cannot do without")
    return state


def _used(state: State, file: Path) -> State:
    """Without blocks that never ran: their BatchNorms have seen no batch, those of the first block have.

    In some of the article's scripts `return` stands inside the loop over the blocks.
    """
    seen: dict[int, int] = {}
    for name, value in state.items():
        if match := re.fullmatch(r"blocks\.(\d+)\..*num_batches_tracked", name):
            seen[int(match[1])] = max(seen.get(int(match[1]), 0), int(value))
    first = next((number for number in sorted(seen) if not seen[number]), 0)
    if not first or any(seen[number] for number in seen if number > first):
        return state
    log.warning(
        f"{file}: only {first} of {len(seen)} blocks ever ran (BatchNorms that saw no batch); the rest is left out"
    )
    return {
        name: value for name, value in state.items()
        if not (match := re.match(r"blocks\.(\d+)\.", name)) or int(match[1]) < first
    }  # fmt: skip


def _root(number: int) -> int:
    return round(number**0.5)


def _is_square(number: int) -> bool:
    return number > 0 and _root(number) ** 2 == number


def _options(state: State, file: Path) -> dict[str, Any]:
    kernel, positions, qkv, hidden = (state[name] for name in NEEDED[:4])
    if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
        raise InputError(f"{file}: patches of {' x '.join(map(str, kernel.shape[2:]))}; only square ones are known")
    if not _is_square(positions.shape[1] - 1):
        raise InputError(f"{file}: {positions.shape[1]} positions are not one for CLS and a square of patches")
    return {
        "image_size": _root(positions.shape[1] - 1) * kernel.shape[2],
        "patch_size": kernel.shape[2],
        "num_classes": len(state["head.weight"]) if "head.weight" in state else 0,
        "channels": kernel.shape[1],
        "dim": len(kernel),
        "depth": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        "inner": len(qkv) // 3,
        "mlp_dim": len(hidden),
        "pool": "cls",
        "pos_emb": "learn",
        "qkv_bias": "blocks.0.attention.to_qkv.bias" in state,
        "projects": "blocks.0.attention.to_out.weight" in state,
    }
