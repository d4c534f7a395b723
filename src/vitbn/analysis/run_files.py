"""The files of a run's folder as checked plain data; InputError names the file that cannot be used and the remedy."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np

from vitbn.errors import InputError, describe
from vitbn.store.config_file import RETRAIN, require_types
from vitbn.store.text_file import read_json, read_text

_NUMBER = (int, float)
_RESULT_TYPES: dict[str, type | tuple[type, ...]] = {
    "status": str, "label": str, "metrics": dict, "fingerprint": dict, "versions": dict, "hardware": str,
    "seconds": _NUMBER, "confusion": list, "classes": list, "val_images": int, "error": str,
}  # fmt: skip


def checked_result(path: Path) -> dict[str, Any]:
    """result.json, empty where there is none."""
    try:
        result = read_json(path)
    except FileNotFoundError:
        return {}
    except (InputError, OSError) as error:
        raise InputError(f"{describe(error)}; remove it and run again") from error
    require_types(result, _RESULT_TYPES, path)
    versions = result.get("versions") or {}
    require_types(versions, dict.fromkeys(versions, str), path)
    metrics, fingerprint = result.get("metrics") or {}, result.get("fingerprint") or {}
    require_types(metrics, dict.fromkeys(metrics, _NUMBER), path)
    require_types(fingerprint, {"parameters": int, "weights": dict}, path)
    rows = result.get("confusion") or []
    if any(not isinstance(row, list) or len(row) != len(rows) or set(map(type, row)) - {int} for row in rows):
        raise InputError(f"{path}: confusion is no square table of counts; {RETRAIN}")
    return result


def read_table(path: Path, ended: bool) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The columns of a CSV of numbers, and notes: of an ended run, a half-written last line that was dropped."""
    try:
        lines = read_text(path, errors="replace").split("\n")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {RETRAIN}") from error
    tail = lines.pop()  # empty when the last line is whole
    if tail and ended:
        lines.append(tail)
    if not lines:
        return {}, ()
    names = next(csv.reader([lines[0].strip()]))
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
