"""The files of a run's folder as checked plain data; InputError names the file that cannot be used and the remedy."""

import json
import math
import re
import stat
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vitbn.errors import InputError
from vitbn.store.yaml_file import parse_yaml, read_yaml_text

RETRAIN = "run it again with rerun=true"
_ENTRIES = re.compile(r"\n(?=\w)")  # of a YAML mapping: every line that begins at the margin is another one
_NUMBER = (int, float)
_CONFIG_TYPES: dict[str, type | tuple[type, ...]] = {
    "model.name": str, "data.name": str, "seed": int, "depth": int, "lr": _NUMBER, "pool": str, "pos_emb": str,
    "epochs": int, "model.num_classes": int,
}  # fmt: skip
_CONFIG_REQUIRED = ("model.name", "data.name", "seed")  # a file that was cut lacks one of them
_RESULT_TYPES: dict[str, type | tuple[type, ...]] = {
    "status": str, "label": str, "metrics": dict, "fingerprint": dict, "versions": dict, "hardware": str,
    "seconds": _NUMBER, "confusion": list,
}  # fmt: skip


def read_config(path: Path) -> dict[str, Any]:
    """config.yaml with dotted keys (`model.name`)."""
    try:
        text = read_yaml_text(path)
        entries = [_entry(entry) for entry in _ENTRIES.split(text)]
        if None in entries:  # not a plain list of entries
            tree = parse_yaml(text, str(path))
            if not isinstance(tree, dict):
                raise InputError(f"{path}: empty or not a mapping")
            entries = [flatten(tree)]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {RETRAIN}") from error
    except InputError as error:
        raise InputError(f"{error}; {RETRAIN}") from error
    config = {key: value for entry in entries if entry for key, value in entry.items()}
    _require_types(config, _CONFIG_TYPES, path)
    for key in _CONFIG_REQUIRED:
        if config.get(key) is None:
            raise InputError(f"{path}: no {key}; {RETRAIN}")
    return config


@cache
def _entry(text: str) -> dict[str, Any] | None:
    """One entry of a configuration, flat; most are alike in all runs of a study. None if it is no mapping by itself."""
    try:
        tree = parse_yaml(text, "")
    except InputError:
        return None
    return flatten(tree) if isinstance(tree, dict) else None


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted keys; lists become tuples."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = tuple(value) if isinstance(value, list) else value
    return flat


def checked_result(path: Path) -> dict[str, Any]:
    """result.json, empty where there is none."""
    try:
        result = json.loads(_read_text(path))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: broken JSON ({_one_line(error)}); remove it and run again") from error
    if not isinstance(result, dict):
        raise InputError(f"{path}: not a JSON object; remove it and run again")
    _require_types(result, _RESULT_TYPES, path)
    metrics, fingerprint = result.get("metrics") or {}, result.get("fingerprint") or {}
    _require_types(metrics, dict.fromkeys(metrics, _NUMBER), path)
    _require_types(fingerprint, {"parameters": int, "weights": dict}, path)
    rows = result.get("confusion") or []
    if any(not isinstance(row, list) or len(row) != len(rows) or set(map(type, row)) - {int} for row in rows):
        raise InputError(f"{path}: confusion is no square table of counts; {RETRAIN}")
    return result


def _require_types(tree: dict[str, Any], types: dict[str, Any], path: Path) -> None:
    """Every value that is there and not null has its type."""
    for key, wanted in types.items():
        value = tree.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, wanted)):
            raise InputError(f"{path}: {key} cannot be {value!r:.60}; {RETRAIN}")


def read_table(path: Path, ended: bool) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The columns of a CSV of numbers, and notes: of an ended run, a half-written last line that was dropped."""
    try:
        lines = _read_text(path, errors="replace").split("\n")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {RETRAIN}") from error
    tail = lines.pop()  # empty when the last line is whole
    if tail and ended:
        lines.append(tail)
    if not lines:
        return {}, ()
    names = lines[0].strip().split(",")
    table: list[list[float]] = []
    notes: tuple[str, ...] = ()
    for number, line in enumerate(lines[1:], start=2):
        try:
            table.append(_cells(line, len(names)))
        except ValueError as error:
            if number < len(lines):
                raise InputError(f"{path}, line {number}: {error}; {RETRAIN}") from error
            notes = (f"{path}, line {number}: half-written last row dropped",) if ended else ()
    columns = np.array(table, dtype=float).reshape(len(table), len(names))
    return {name: columns[:, index] for index, name in enumerate(names)}, notes


def _cells(line: str, count: int) -> list[float]:
    cells = line.strip().split(",")
    if len(cells) != count:
        raise ValueError(f"{len(cells)} of {count} fields")
    return [float(cell) if cell else math.nan for cell in cells]


def _read_text(path: Path, errors: str = "strict") -> str:
    if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait for ever
        raise InputError(f"{path}: not a regular file; {RETRAIN}")
    return path.read_text(encoding="utf-8", errors=errors)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
