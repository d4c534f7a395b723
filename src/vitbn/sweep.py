"""What happens around Hydra's jobs: every configuration is checked before the first one starts,
and a sweep ends with the table of its runs."""

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vitbn.config import check, explained, plain, register
from vitbn.training import study
from vitbn.training.status import write_plan

log = logging.getLogger(__name__)
SWEEPERS = (".StudySweeper", ".BasicSweeper")  # those over listed values
register()  # a launcher's worker gets the callback below, and with it the resolvers, but never runs train.py's top


class StudyCallback(Callback):
    """Checks before the first job; the table after the last."""

    def __init__(self) -> None:
        self.planned: dict[tuple[str, ...], study.Run] = {}  # by what would be typed for the run alone

    @property
    def runs(self) -> list[study.Run]:
        return list(self.planned.values())

    def run_of(self, job: Sequence[str]) -> study.Run:
        """The run that a job of the sweep trains."""
        return self.planned[tuple(job)]

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse bad values before a folder is made."""
        with explained():
            check(config, config.hydra.overrides.task)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse bad values in any job before the first one starts."""
        with explained():
            if not over_lists(config):
                check(config)
            for words, job in jobs(config):
                check(job, words)
                self.planned[tuple(words)] = study.Run(plain(job))
            for folder in {run.study for run in self.runs}:
                write_plan(folder, [run for run in self.runs if run.study == folder])

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """One thread per run where a launcher trains several at once, unless OMP_NUM_THREADS says otherwise."""
        if config.hydra.mode == RunMode.MULTIRUN and not config.hydra.launcher._target_.endswith(".BasicLauncher"):
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch, which is imported later

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with 1 if the run failed."""
        if failed([study.Run(plain(config))]):
            raise SystemExit(1)  # Hydra swallows any other exception of a callback

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Show what the sweep's runs came to; exit with 1 if any failed."""
        for folder in sorted({run.study for run in self.runs}):
            study.write_summary(folder)
            study.print_table(folder, [run.folder for run in self.runs if run.study == folder])
        if config.logger.name == "tensorboard":
            log.info(f"curves: tensorboard --logdir {config.runs}")
        if names := failed(self.runs):
            log.error(f"failed: {', '.join(names)}")
            raise SystemExit(1)


def failed(runs: list[study.Run]) -> list[str]:
    """The folders of the runs that failed."""
    return [str(run.folder) for run in runs if (run.result() or {}).get("status") == "failed"]


def over_lists(config: DictConfig) -> bool:
    """Whether a sweep's jobs are known before it starts; a search chooses them as it goes."""
    return config.hydra.sweeper._target_.endswith(SWEEPERS)


def jobs(config: DictConfig) -> Iterator[tuple[list[str], DictConfig]]:
    """The words and the configuration of every job that a sweep over listed values will train, one at a time.

    Nothing where a search chooses as it goes. Hydra takes a fifth of a second to compose a job: jobs that differ in
    plain values only are one composition, in which the next job's values replace those of the job before.
    """
    if not over_lists(config):
        return
    loader = GlobalHydra.instance().config_loader()
    parser = OverridesParser.create(loader)
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = parser.parse_overrides([*params, *config.hydra.overrides.task])
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    values: dict[str, tuple[str, Any] | None] = {}
    composed: dict[tuple[str, ...], DictConfig] = {}
    for words in batch:
        for word in words:
            if word not in values:
                values[word] = _plain_value(config, parser.parse_override(word))
        others = tuple(word for word in words if values[word] is None)
        if others not in composed:
            composed[others] = loader.load_sweep_config(config, list(words))
        for key, value in filter(None, map(values.get, words)):
            OmegaConf.update(composed[others], key, value)
        yield words, composed[others]


def _plain_value(config: DictConfig, override: Override) -> tuple[str, Any] | None:
    """Key and value of an override that changes nothing but the value that stands there."""
    key = override.key_or_group
    known = key not in config.hydra.runtime.choices and OmegaConf.select(config, key) is not None
    simple = known and override.type == OverrideType.CHANGE and override.package is None
    value = override.value() if simple else None
    return (key, value) if isinstance(value, str | int | float | bool) else None
