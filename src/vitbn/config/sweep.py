"""The jobs of a sweep over listed values, as Hydra would compose them one by one.

Hydra takes a fifth of a second to compose a job, OmegaConf 5 ms to resolve one, and a study has thousands. So jobs that
differ in plain values share one composition, and those that differ in `seed` alone are resolved once.
"""

import copy
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from vitbn.config.compose import CONF, to_plain_dict
from vitbn.errors import InputError

SEED_INTERPOLATION = re.compile(r"\$\{[^}]*\bseed\b")


@dataclass(frozen=True)
class Job:
    """The overrides that a single run would be typed with, and its resolved configuration."""

    overrides: list[str]
    config: dict[str, Any]


def command_jobs(arguments: Sequence[str]) -> list[Job]:
    """The jobs that `vitbn train -m` has with these arguments."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        sweep = loader.load_configuration("config", list(arguments), RunMode.MULTIRUN)
        typed: Any = OmegaConf.to_container(sweep.hydra.overrides.task, resolve=False)
        return list(sweep_jobs(sweep, typed, loader))


def sweep_jobs(sweep: DictConfig, arguments: Sequence[str], loader: ConfigLoader) -> Iterator[Job]:
    """Every job of a sweep; `sweep` is the composition that the arguments give before they are split."""
    params = [f"{key}={value}" for key, value in (sweep.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(loader)
    changes: dict[str, _Change] = {}
    compositions: dict[tuple[str, ...], _Composition] = {}
    for overrides in split([*params, *arguments], parser):
        for text in overrides:
            if text not in changes:
                changes[text] = _Change.of(parser.parse_override(text), sweep)
        values = _plain_values({text: changes[text] for text in overrides})
        others = tuple(text for text in overrides if text not in values)
        if others not in compositions:
            compositions[others] = _Composition(loader.load_sweep_config(sweep, overrides))
        yield Job(overrides, compositions[others].with_values(list(values.values())))


def split(arguments: Sequence[str], parser: OverridesParser) -> list[list[str]]:
    """The overrides of every job: all combinations of the listed values, the last key varying fastest."""
    choices: dict[str, list[str]] = {}
    for override in parser.parse_overrides(list(arguments)):
        if not override.is_sweep_override():
            values = [override.get_value_element_as_str()]
        elif override.is_discrete_sweep():
            values = list(override.sweep_string_iterator())
        else:
            raise InputError(f"{override.input_line}: list the values, such as 1,2,3, or search with search=lr_depth")
        if not values:
            raise InputError(f"{override.input_line}: no values")
        key = override.get_key_element()
        choices[key] = [f"{key}={value}" for value in values]
    return [list(combination) for combination in itertools.product(*choices.values())]


@dataclass(frozen=True)
class _Change:
    """What an override does to the configuration."""

    key: str
    value: Any
    kind: str  # "group": another choice; "plain": a value where there is one already; "other"

    @classmethod
    def of(cls, override: Override, sweep: DictConfig) -> "_Change":
        key, value = override.key_or_group, override.value()
        is_plain = (
            override.type in (OverrideType.CHANGE, OverrideType.FORCE_ADD)
            and override.package is None
            and isinstance(value, str | int | float | bool)
            and "${" not in str(value)
            and OmegaConf.select(sweep, key) is not None
        )
        is_group = key in sweep.hydra.runtime.choices
        return cls(key, value, "group" if is_group else "plain" if is_plain else "other")

    @property
    def root(self) -> str:
        return self.key.partition(".")[0]


def _plain_values(changes: dict[str, _Change]) -> dict[str, tuple[str, Any]]:
    """Key and value of a job's plain overrides.

    Not of those whose part of the configuration another override changes otherwise: there Hydra minds their order.
    """
    roots = {change.root for change in changes.values() if change.kind == "other"}
    return {
        text: (change.key, change.value)
        for text, change in changes.items()
        if change.kind == "plain" and change.root not in roots
    }


class _Composition:
    """One composition, resolved with other plain values in it; the keys are the same every time."""

    def __init__(self, config: DictConfig) -> None:
        with read_write(config), open_dict(config):
            del config["hydra"]  # half of the time to resolve
        self.config = config
        self.reads_seed = bool(SEED_INTERPOLATION.search(OmegaConf.to_yaml(config)))
        self.resolved: dict[Any, dict[str, Any]] = {}  # by all values but the seed

    def with_values(self, values: list[tuple[str, Any]]) -> dict[str, Any]:
        seeds = [value for key, value in values if key == "seed"]
        if self.reads_seed or not all(type(seed) is int for seed in seeds):
            return self._resolve(values)
        others = tuple((key, type(value), value) for key, value in values if key != "seed")  # 1 equals True
        if others not in self.resolved:
            self.resolved[others] = self._resolve(values)
        config = copy.deepcopy(self.resolved[others])
        return config | {"seed": seeds[-1]} if seeds else config

    def _resolve(self, values: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, value in values:
            OmegaConf.update(self.config, key, value)
        return to_plain_dict(self.config)
