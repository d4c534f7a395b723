"""A search with Optuna instead of a sweep over listed values: `search=lr_depth`.

hydra-optuna-sweeper is bound to an Optuna below 3, which current SQLAlchemy breaks. Hydra imports this module in every
application of the environment, so what is ours is imported where it is used.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from vitbn.store.search import Search

log = logging.getLogger(__name__)
GROUPS = ("model", "data", "optimizer", "schedule")  # what a best configuration names first
EXCLUDED = ("hydra", "seed", "data.holdout")  # what it leaves to whoever trains it, beside what changes no result


class OptunaSweeper(Sweeper):
    """Trains until `trials` of the search have ended, `n_parallel` of them together, for the best `metric`.

    The search is stored in search.db of the study's folder: the same command continues it, more `trials` lengthen it,
    and interrupted trials are trained to their end first. `space`: key -> {low, high, log, step} or a list of choices;
    a value typed for one of its keys fixes it, several become choices.
    """

    config: DictConfig
    launcher: Launcher

    def __init__(
        self,
        metric: str,
        trials: int,
        n_parallel: int,
        seed: int,
        space: DictConfig,
        params: DictConfig | None = None,
        **_unused: None,
    ) -> None:  # `params`: an experiment's own sweep; the other keys of the sweeper over listed values are null
        from vitbn.config.ranges import counting, natural, one_of, require
        from vitbn.store.search import parameter

        require("hydra.sweeper.metric", metric, one_of("val/acc", "val/loss"))
        require("hydra.sweeper.trials", trials, counting)
        require("hydra.sweeper.n_parallel", n_parallel, counting)
        require("hydra.sweeper.seed", seed, natural)
        self.metric = metric
        self.trials = trials
        self.n_parallel = n_parallel
        self.seed = seed
        parameters: Any = OmegaConf.to_container(space)
        self.space = {str(key): parameter(key, value) for key, value in parameters.items()}
        self.params = [f"{key!s}={value}" for key, value in (params or {}).items()]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from vitbn.config.launch import check_hydra

        check_hydra(config.hydra)
        self.config = config
        self.loader = hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search, log the best trial and how to train it; RunFailed if a run failed."""
        from vitbn.analysis.table import write_summary
        from vitbn.config.checks import check
        from vitbn.config.compose import to_plain_dict
        from vitbn.errors import InputError, RunFailed
        from vitbn.store.lock import locked
        from vitbn.store.run import config_hash
        from vitbn.store.search import Search

        config = to_plain_dict(self.config)
        check(config)
        for key in [key for key in self.space if OmegaConf.select(self.config, key) is None]:
            log.info(f"hydra.sweeper.space.{key}: not searched, this configuration has no {key}")
            del self.space[key]
        fixed = self._fixed_overrides([*self.params, *arguments])
        if not config["data"].get("holdout"):
            raise InputError("data.holdout=0: a search needs held-out training images, e.g. data.holdout=5000")
        folder = Path(config["runs"]) / config["study"]
        of_metric = {} if self.metric == "val/acc" else {"metric": self.metric}
        name = config_hash(config | {"space": {key: list(value) for key, value in self.space.items()}} | of_metric)
        for overrides in self._extremes(fixed):
            check(to_plain_dict(self.loader.load_sweep_config(self.config, overrides)), overrides)
        failed: list[str] = []
        with locked(folder / ".search") as acquired:
            if not acquired:
                raise InputError(f"{folder}: another process searches there")
            search = Search.open(folder, name, self.space, self.metric, self.seed)
            while trials := search.next_round(self.n_parallel, self.trials):
                jobs = [_overrides(fixed, trial) for trial in trials]
                for trial, outcome in zip(trials, self.launcher.launch(jobs, trials[0].number), strict=True):
                    run_id, value = self._result(outcome)
                    search.tell(trial, run_id, value)
                    failed += [run_id] if outcome.status == JobStatus.FAILED else []
                self._report(search, fixed)
        write_summary(folder)
        if failed:
            log.error(f"failed: {', '.join(failed)}")
            raise RunFailed

    def _fixed_overrides(self, arguments: list[str]) -> list[str]:
        """The arguments that hold for every trial; the others change the space."""
        from vitbn.errors import InputError
        from vitbn.store.search import parameter

        fixed = []
        for override in OverridesParser.create().parse_overrides(arguments):
            key = override.key_or_group
            if not override.is_sweep_override():
                self.space.pop(key, None)
                fixed.append(str(override.input_line))
            elif override.is_discrete_sweep():
                key = key if key in self.space else override.get_key_element()  # a new key with its +
                self.space[key] = parameter(key, list(override.sweep_string_iterator()))
            else:
                raise InputError(f"{override.input_line}: list the values, or give hydra.sweeper.space.{key}")
        return fixed

    def _extremes(self, fixed: list[str]) -> list[list[str]]:
        """The trials at both ends of every range, or with every choice, the other keys left as they are."""
        ends = {
            key: options.get("choices") or (options["low"], options["high"]) for key, (_, options) in self.space.items()
        }
        return [[*fixed, f"{key}={value}"] for key, values in ends.items() for value in values]

    def _result(self, outcome: JobReturn) -> tuple[str, float | None]:
        """The run's id and its metric; None unless it is done."""
        from vitbn.config.compose import to_plain_dict
        from vitbn.store.run import Run

        run = Run(to_plain_dict(cast(DictConfig, outcome.cfg)))
        result = run.result() or {}
        return run.id, result["metrics"][self.metric] if result.get("status") == "done" else None

    def _report(self, search: "Search", fixed: list[str]) -> None:
        """Log the best trial in one line and write it as an experiment file."""
        import yaml

        from vitbn.store import atomic

        best, progress = search.best, f"{search.ended} of {self.trials} trials"
        if best is None:
            log.info(f"{progress}, none trained to its end yet")
            return
        config = self.loader.load_sweep_config(self.config, _overrides(fixed, best))
        choices = {group: config.hydra.runtime.choices[group] for group in GROUPS}
        defaults = self.loader.load_configuration("config", [f"{k}={v}" for k, v in choices.items()], RunMode.RUN)
        content = {"study": f"{config.study}-best", "defaults": [{f"override /{k}": v} for k, v in choices.items()]}
        found, usual = (OmegaConf.to_container(tree, enum_to_str=True) for tree in (config, defaults))
        content |= _changed(found, usual)
        folder = search.folder / "experiment"
        folder.mkdir(exist_ok=True)
        score = f"{self.metric} {best.value:.4f} on held-out training images (data.holdout={config.data.holdout})"
        header = f"# @package _global_\n# The best of {search.ended} trials: {score}.\n"
        atomic.write_text(folder / "best.yaml", header + yaml.safe_dump(content, sort_keys=False))
        params = " ".join(f"{key}={value}" for key, value in best.params.items())
        log.info(f"{progress}, best {score}: {params}")
        log.info(f"to train it on all training images: vitbn train --config-dir {search.folder} experiment=best")


def _overrides(fixed: list[str], trial: Any) -> list[str]:
    return [*fixed, *(f"{key}={value}" for key, value in trial.params.items())]


def _changed(config: Any, defaults: Any, prefix: str = "") -> dict[str, Any]:
    """The branches of a configuration that differ from the defaults and make a difference to a training."""
    from vitbn.store.run import UNHASHED

    changed: dict[str, Any] = {}
    for key, value in config.items():
        if (name := f"{prefix}{key}") in (*EXCLUDED, *UNHASHED) or value == defaults.get(key):
            continue
        changed[key] = _changed(value, defaults.get(key) or {}, f"{name}.") if isinstance(value, dict) else value
    return {key: value for key, value in changed.items() if value != {}}
