"""instruments.csv of a run: what was measured inside of its network at the end of epoch 1, last, and on the way."""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vitbn.errors import InputError, describe
from vitbn.store.text_file import read_text

log = logging.getLogger("vitbn")
COLUMNS = "step,epoch,layer,slot,name,value"
Key = tuple[str, str, str]  # layer, slot (of gradients and updates a group of parameters, "" for all), name
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
