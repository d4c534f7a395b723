"""A search with Optuna instead of a sweep over listed values: `search=lr_depth`.

hydra-optuna-sweeper is bound to an Optuna below 3, which current SQLAlchemy breaks.
"""

import logging
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from vitbn.config.compose import plain
from vitbn.errors import InputError
from vitbn.store import atomic as durable
from vitbn.store.lock import owned
from vitbn.store.run import Run, config_hash, write_summary
from vitbn.store.search import Search, parameter

log = logging.getLogger(__name__)
GROUPS = ("model", "data", "optimizer", "schedule")  # what a best configuration names first
# what it leaves to whoever trains it
APART = ("hydra", "study", "runs", "rerun", "fail_fast", "seed", "logger", "trainer", "root", "holdout")


class OptunaSweeper(Sweeper):
    """Trains until `trials` of the search have ended, `at_once` of them together, for the highest `metric`.

    The search lives in search.db of the study's folder: the same command goes on with it, more `trials` lengthen it,
    and what was interrupted is trained to its end first. `space`: key -> {low, high, log, step} or a list of choices;
    a value typed for one of its keys fixes it, several become choices.
    """

    def __init__(
        self, metric: str, trials: int, at_once: int, seed: int, space: DictConfig, **of_lists: None
    ) -> None:  # the keys of the sweeper over listed values, whose place it takes, are null
        self.metric, self.trials, self.at_once, self.seed = metric, trials, at_once, seed
        given: Any = OmegaConf.to_container(space)
        self.space = {str(key): parameter(key, value) for key, value in given.items()}
        if not metric.startswith("val/"):
            raise InputError(f"hydra.sweeper.metric={metric}: must be val/acc or val/loss, never of the test images")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.base, self.loader = config, hydra_context.config_loader
        self.jobs = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search, then say what was best and how to train it."""
        fixed = self._typed(arguments)
        config = plain(self.base)
        if not config["data"].get("holdout"):
            raise InputError("data.holdout=0: a search needs held-out training images, e.g. data.holdout=5000")
        folder = Path(config["runs"]) / config["study"]
        name = config_hash(config | {"space": {key: list(value) for key, value in self.space.items()}})
        with owned(folder / ".search") as mine:
            if not mine:
                raise InputError(f"{folder}: another process searches there")
            search = Search.opened(folder, name, self.space, self.metric, self.seed)
            while (missing := min(self.trials - search.ended, self.at_once)) > 0:
                trials = [search.ask() for _ in range(missing)]
                jobs = [_words(fixed, trial) for trial in trials]
                for trial, outcome in zip(trials, self.jobs.launch(jobs, trials[0].number), strict=True):
                    search.tell(trial, *self._result(outcome))
                self._report(search, fixed)
        write_summary(folder)

    def _typed(self, arguments: list[str]) -> list[str]:
        """The arguments that hold for every trial; the others change the space."""
        fixed = []
        for override in OverridesParser.create().parse_overrides(arguments):
            key = override.get_key_element()
            if not override.is_sweep_override():
                self.space.pop(key, None)
                fixed.append(f"{key}={override.get_value_element_as_str()}")
            elif override.is_discrete_sweep():
                self.space[key] = parameter(key, list(override.sweep_string_iterator()))
            else:
                raise InputError(f"{override.input_line}: list the values, or give hydra.sweeper.space.{key}")
        return fixed

    def _result(self, outcome: JobReturn) -> tuple[str, float | None]:
        """The run and its value; None unless it was trained to its end."""
        run = Run(plain(cast(DictConfig, outcome.cfg)))
        result = run.result() or {}
        return run.id, result["metrics"][self.metric] if result.get("status") == "done" else None

    def _report(self, search: Search, fixed: list[str]) -> None:
        """The best trial in one line and as an experiment file."""
        best, said = search.best, f"{search.ended} of {self.trials} trials"
        if best is None:
            log.info(f"{said}, none trained to its end yet")
            return
        found = self.loader.load_sweep_config(self.base, _words(fixed, best))
        choices = {group: found.hydra.runtime.choices[group] for group in GROUPS}
        usual = self.loader.load_configuration("config", [f"{k}={v}" for k, v in choices.items()], RunMode.RUN)
        content = {"study": f"{found.study}-best", "defaults": [{f"override /{k}": v} for k, v in choices.items()]}
        content |= _changed(*(OmegaConf.to_container(each, enum_to_str=True) for each in (found, usual)))
        folder = search.folder / "experiment"
        folder.mkdir(exist_ok=True)
        text = yaml.safe_dump(content, sort_keys=False)
        told = f"{self.metric} {best.value:.4f} on {found.data.holdout} held-out training images"
        head = f"# @package _global_\n# The best of {search.ended} trials: {told}.\n"
        durable.write_text(folder / "best.yaml", head + text)
        params = " ".join(f"{key}={value}" for key, value in best.params.items())
        log.info(f"{said}, best {told}: {params}")
        log.info(f"to train it on all training images: python train.py --config-dir {search.folder} experiment=best")


def _words(fixed: list[str], trial: Any) -> list[str]:
    return [*fixed, *(f"{key}={value}" for key, value in trial.params.items())]


def _changed(found: Any, usual: Any) -> dict[str, Any]:
    """The branches of one configuration that differ from another and make a difference to a training."""
    changed: dict[str, Any] = {}
    for key, value in found.items():
        if key in APART or value == usual.get(key):
            continue
        changed[key] = _changed(value, usual.get(key) or {}) if isinstance(value, dict) else value
    return {key: value for key, value in changed.items() if value != {}}
