"""KEY=VALUE on the command line: which runs of a study are meant."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml

from vitbn.errors import InputError
from vitbn.norms.kinds import label, normal_form
from vitbn.store.labels import KINDS, FlatConfig, data_name, labels, short_value

Key = TypeVar("Key")
_ABSENT = object()


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names among the words, and the filters: those with an equals sign that does not stand in a path."""
    filters = [word for word in words if "=" in word.partition("/")[0]]
    return [word for word in words if word not in filters], filters


def fitting(configs: Mapping[Key, FlatConfig], filters: Sequence[str]) -> dict[Key, FlatConfig]:
    """Those that have all the values; `seed=0,1` means any of them. InputError for what no run has.

    A key is as typed for `vitbn train`, or its last part: `model=vit`, `norm.attn_out=batch`, `dropout=0.1`.
    """
    chosen = dict(configs)
    for typed in filters:
        key, _, values = typed.partition("=")
        found = {name: _value(config, key) for name, config in configs.items()}
        present = sorted({_text(value) for value in found.values() if value is not _ABSENT})
        if not present:
            raise InputError(
                f"{typed}: no run has this key; they differ in {', '.join(_differing(configs)) or 'nothing'}"
            )
        # at commas that do not stand within brackets, as those of a norm's options do
        wanted = [_as_label(text) for text in re.split(r",(?![^({\[]*[)}\]])", values)]
        chosen = {name: config for name, config in chosen.items() if any(_equal(found[name], text) for text in wanted)}
        if not chosen:
            so_far = " ".join(filters[: filters.index(typed) + 1])
            raise InputError(f"no run has {so_far}; there are {', '.join(present[:20])}")
    return chosen


def _value(config: FlatConfig, key: str) -> Any:
    if key == "data":
        return data_name(config)
    for name in (key, *(f"{key}{kind}" for kind in KINDS)):
        if name in config:
            return short_value(name, config[name])
    ending = {str(value): value for name, value in config.items() if name.endswith(f".{key}")}
    return next(iter(ending.values())) if len(ending) == 1 else _ABSENT


def _equal(value: Any, text: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return math.isclose(value, float(text), rel_tol=1e-9)
        except ValueError:
            return False
    return _text(value).lower() == text.lower()


def _text(value: Any) -> str:
    return "null" if value is None else str(value)


def _as_label(text: str) -> str:
    """A norm with options, as typed for a training, as tables call it."""
    if not text.startswith("{"):
        return text
    try:
        return label(normal_form(yaml.safe_load(text.replace(":", ": "))))
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError):
        return text


def _differing(configs: Mapping[Any, FlatConfig]) -> list[str]:
    found = labels([config for config in configs.values() if config])
    return [key for key in found[0] if len({str(each[key]) for each in found}) > 1] if found else []
