"""instruments.csv of a run: what was measured inside of its network at the end of epoch 1, last, and on the way."""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vitbn.errors import InputError, describe
from vitbn.models.placements import Slot
from vitbn.store.text_file import read_text

log = logging.getLogger("vitbn")
COLUMNS = "step,epoch,layer,slot,name,value"
Key = tuple[str, str, str]  # layer, slot (of gradients and updates a group of parameters, "" for all), name
MEASUREMENTS = ("sharpness", "gradient norm", "update ratio", "attention entropy", "mean gap", "deviation gap")
GROWTH = "variance growth"  # of what enters the blocks: log2 of the last block's over the first's
MEASURED = (*MEASUREMENTS, GROWTH)  # what a claim may ask for
OVER_TIME = ("sharpness", "gradient norm", "mean gap", "attention entropy")


@dataclass(frozen=True)
class Measured:
    """Values by layer, slot and name: the last of epoch 1, the last of all; over steps the mean over layers and slots.

    The gradient norm over steps is that of the whole network.
    """

    first: dict[Key, float] = field(default_factory=dict)
    last: dict[Key, float] = field(default_factory=dict)
    courses: dict[str, dict[int, float]] = field(default_factory=dict)


def read_instruments(path: Path) -> Measured | None:
    """None where there is no such file, or none that can be used; a warning says so. A half-written end is left out."""
    try:
        return _read(path)
    except FileNotFoundError:
        return None
    except (InputError, OSError, ValueError) as error:
        log.warning(f"{path}: {describe(error)}; left out")
        return None


def _read(path: Path) -> Measured:
    header, *lines = read_text(path, errors="replace").split("\n")[:-1] or [""]
    if header != COLUMNS:
        raise InputError(f"its first line is not {COLUMNS}")
    measured = Measured()
    gathered: dict[tuple[str, int], list[float]] = {}
    for line in lines:
        step, epoch, layer, slot, name, number = line.split(",")
        value, key = float(number), (layer, slot, name)
        measured.last[key] = value
        if epoch == "1":
            measured.first[key] = value
        if name in OVER_TIME and (name != "gradient norm" or not slot):
            gathered.setdefault((name, int(step)), []).append(value)
    for (name, at), values in gathered.items():
        whole = math.hypot(*values) if name == "gradient norm" else sum(values) / len(values)
        measured.courses.setdefault(name, {})[at] = whole
    return measured


def layer_name(layer: str) -> str:
    """blocks.3 -> 4: the layers of a list are counted from 1; others have their name."""
    number = re.search(r"[._](\d+)$", layer)
    return str(int(number[1]) + 1) if number else layer.rpartition(".")[2]


def over_layers(values: Mapping[Key, float], name: str, slot: str | None = None) -> dict[str, float]:
    """A measurement by layer, in the order of the layers; its mean over the slots where none is asked for."""
    found: dict[str, list[float]] = {}
    for (layer, at, what), value in values.items():
        if what == name and slot in (None, at):
            found.setdefault(layer_name(layer), []).append(value)
    return {layer: sum(of) / len(of) for layer, of in found.items()}


def summarized(values: Mapping[Key, float]) -> dict[str, float]:
    """One number per measurement: the mean over layers, of some also the largest and the smallest of these."""
    found = {}
    for name in MEASUREMENTS:
        whole = "" if name in ("gradient norm", "update ratio") else None
        if layers := list(over_layers(values, name, whole).values()):
            found[name] = sum(layers) / len(layers)
            if len(layers) > 1:
                found |= {f"{name}, largest": max(layers), f"{name}, smallest": min(layers)}
    for slot in (slot for slot in Slot if slot != Slot.embed_in):  # where the images arrive
        if layers := list(over_layers(values, "variance", slot).values()):
            found[f"variance at {slot}"] = sum(layers) / len(layers)
    blocks = list(over_layers(values, "variance", Slot.attn_in).values())
    if len(blocks) > 1 and min(blocks[0], blocks[-1]) > 0:
        found[GROWTH] = math.log2(blocks[-1] / blocks[0])
    return found
