"""The jobs of a sweep over listed values, before Hydra composes any.

Hydra takes a fifth of a second to compose a job and OmegaConf a hundredth to resolve it; a study has thousands.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from vitbn.config.compose import plain

SWEEPERS = (".StudySweeper", ".BasicSweeper")  # those over listed values
Place = tuple[str, ...]


def over_lists(config: DictConfig) -> bool:
    """Whether a sweep's jobs are known before it starts; a search chooses them as it goes."""
    return config.hydra.sweeper._target_.endswith(SWEEPERS)


def jobs(config: DictConfig) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """The words and the resolved configuration of every job that a sweep over listed values will train.

    Nothing where a search chooses as it goes. Jobs that differ in plain values only are one composition.
    """
    if not over_lists(config):
        return
    loader = GlobalHydra.instance().config_loader()
    parser = OverridesParser.create(loader)
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = parser.parse_overrides([*params, *config.hydra.overrides.task])
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    values: dict[str, tuple[str, Any] | None] = {}
    composed: dict[tuple[str, ...], Variants] = {}
    for words in batch:
        for word in words:
            if word not in values:
                values[word] = _plain_value(config, parser.parse_override(word))
        others = tuple(word for word in words if values[word] is None)
        if others not in composed:
            composed[others] = Variants(loader.load_sweep_config(config, list(words)))
        yield words, composed[others].having(dict(filter(None, map(values.get, words))))


def _plain_value(config: DictConfig, override: Override) -> tuple[str, Any] | None:
    """Key and value of an override that changes nothing but the value that stands there."""
    key = override.key_or_group
    known = key not in config.hydra.runtime.choices and OmegaConf.select(config, key) is not None
    simple = known and override.package is None and override.type in (OverrideType.CHANGE, OverrideType.FORCE_ADD)
    value = override.value() if simple else None
    return (key, value) if isinstance(value, str | int | float | bool) and "${" not in str(value) else None


class Variants:
    """One composition with other values in it, resolved.

    What a value changes, its own place and those that refer to it, is found once, against the values composed with.
    Values that change different places are put in side by side; where two change the same, all is resolved together.
    A place that two values change only together, as a resolver of two arguments could make it, would not be seen.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config, self.base = config, plain(config)
        self.changes: dict[tuple[str, type, Any], list[tuple[Place, Any]]] = {}

    def having(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The resolved configuration with these values, by dotted key."""
        changed = [change for key, value in values.items() for change in self._changes(key, value)]
        if len({place for place, _ in changed}) < len(changed):
            return self._resolved(values)
        tree = copy.deepcopy(self.base)
        for place, value in changed:
            _branch(tree, place)[place[-1]] = copy.deepcopy(value)
        return tree

    def _changes(self, key: str, value: Any) -> list[tuple[Place, Any]]:
        known = (key, type(value), value)  # 1 equals True
        if known not in self.changes:
            self.changes[known] = list(_changed(self.base, self._resolved({key: value})))
        return self.changes[known]

    def _resolved(self, values: Mapping[str, Any]) -> dict[str, Any]:
        before = {key: OmegaConf.select(self.config, key) for key in values}
        for key, value in values.items():
            OmegaConf.update(self.config, key, value)
        tree = plain(self.config)
        for key, value in before.items():
            OmegaConf.update(self.config, key, value)
        return tree


def _branch(tree: dict[str, Any], place: Place) -> dict[str, Any]:
    for part in place[:-1]:
        tree = tree[part]
    return tree


def _changed(old: dict[str, Any], new: dict[str, Any], prefix: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Where two configurations differ, and what the new one has there. A type is a difference, too: 1 and True."""
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old[key], dict):
            yield from _changed(old[key], value, (*prefix, key))
        elif (type(value), value) != (type(old[key]), old[key]):
            yield (*prefix, key), value
