"""config.yaml of a run, flat and checked. Imports no torch."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from vitbn.errors import InputError
from vitbn.store.labels import flatten
from vitbn.store.yaml_file import parse_yaml, read_yaml_text

RETRAIN = "run it again with rerun=true"
_ENTRIES = re.compile(r"\n(?=\w)")  # of a YAML mapping: every line that begins at the margin is another one
_TYPES: dict[str, type | tuple[type, ...]] = {
    "model.name": str, "data.name": str, "seed": int, "depth": int, "lr": (int, float), "pool": str, "pos_emb": str,
    "epochs": int, "model.num_classes": int, "trainer.devices": int, "data.holdout": (int, float),
}  # fmt: skip
_REQUIRED = ("model.name", "data.name", "seed")  # a file that was cut lacks one of them


def read_config(path: Path) -> dict[str, Any]:
    """config.yaml with dotted keys (`model.name`); InputError names a file that is none."""
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
    check_config(config, path)
    return config


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """InputError unless a flat configuration has what every run's has; `path` says where it was read."""
    require_types(config, _TYPES, path)
    for key in _REQUIRED:
        if config.get(key) is None:
            raise InputError(f"{path}: no {key}; {RETRAIN}")


@cache
def _entry(text: str) -> dict[str, Any] | None:
    """One entry of a configuration, flat; most are alike in all runs of a study. None if it is no mapping by itself."""
    try:
        tree = parse_yaml(text, "")
    except InputError:
        return None
    return flatten(tree) if isinstance(tree, dict) else None


def require_types(tree: Mapping[str, Any], types: dict[str, Any], path: Path) -> None:
    """InputError unless every value that is there and not null has its type."""
    for key, wanted in types.items():
        value = tree.get(key)
        is_huge = isinstance(value, int) and abs(value) >= 2**63  # no array and no table holds it
        if value is not None and (is_huge or isinstance(value, bool) or not isinstance(value, wanted)):
            raise InputError(f"{path}: {key} cannot be {value!r:.60}; {RETRAIN}")
