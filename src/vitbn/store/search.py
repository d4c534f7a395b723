"""A search on disk: Optuna's storage in search.db, and search.json for readers. Imports no torch."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from vitbn.errors import InputError, describe
from vitbn.store import atomic
from vitbn.store.text_file import read_json

log = logging.getLogger("vitbn")
Parameter = tuple[str, dict[str, Any]]  # the name of one of Optuna's distributions and its arguments


def parameter(key: str, value: Any) -> Parameter:
    """A range {low, high, log, step} or a list of choices; InputError for anything else."""
    if isinstance(value, Mapping):
        options = {name: value[name] for name in ("low", "high", "log", "step") if name in value}
        bounds = [options.get("low"), options.get("high")]
        are_numbers = all(isinstance(bound, Real) for bound in bounds)
        if len(options) == len(value) and are_numbers and bounds[0] <= bounds[1]:  # type: ignore[operator]
            are_whole = all(isinstance(bound, int) for bound in bounds)
            return ("IntDistribution" if are_whole else "FloatDistribution"), options
    elif isinstance(value, list) and value:
        return "CategoricalDistribution", {"choices": value}
    raise InputError(f"hydra.sweeper.space.{key}={value}: must be {{low: 1, high: 5}}, with log or step, or a list")


@dataclass
class Search:
    """Trials of one configuration over a space of parameters, in search.db of the study's folder."""

    folder: Path
    metric: str
    study: Any  # Optuna's
    space: dict[str, Any]  # key -> Optuna's distribution
    interrupted: list[Any] = field(default_factory=list)  # trials that an earlier process began and did not end

    @classmethod
    def open(cls, folder: Path, name: str, space: Mapping[str, Parameter], metric: str, seed: int) -> "Search":
        """Create the search of that name or load it; InputError without Optuna."""
        try:
            import optuna
        except ImportError:
            raise InputError("a search needs Optuna; pip install -e '.[optuna]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = f"sqlite:///{folder.resolve() / 'search.db'}"
        direction: Any = "minimize" if metric.endswith("loss") else "maximize"
        study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
        # not the seed alone: a continued search would draw again what it has drawn before
        study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
        distributions = {key: getattr(optuna.distributions, kind)(**options) for key, (kind, options) in space.items()}
        return cls(folder, metric, study, distributions, study.get_trials(states=[optuna.trial.TrialState.RUNNING]))

    @property
    def ended(self) -> int:
        """How many trials are done or have failed."""
        return sum(trial.state.is_finished() for trial in self.study.trials)

    def ask(self) -> Any:
        """A trial (number, params) to train: one that was interrupted, or a new one."""
        return self.interrupted.pop(0) if self.interrupted else self.study.ask(self.space)

    def tell(self, trial: Any, run_id: str, value: float | None) -> None:
        """Record the trial's value; None if the run diverged or failed, a failed trial for Optuna."""
        from optuna.trial import TrialState

        self.study.tell(trial.number, value, TrialState.FAIL if value is None else TrialState.COMPLETE)
        recorded = read_search(self.folder).get("trials", [])
        run_ids = {entry["number"]: entry["run"] for entry in recorded} | {trial.number: run_id}
        trials = [
            {"number": t.number, "run": run_ids.get(t.number), "params": t.params, "value": t.value}
            for t in self.study.trials
            if t.state.is_finished()
        ]
        content = {"name": self.study.study_name, "metric": self.metric, "space": list(self.space), "trials": trials}
        atomic.write_json(self.folder / "search.json", content)

    @property
    def best(self) -> Any | None:
        """The best trial so far; None if none is done."""
        from optuna.trial import TrialState

        return self.study.best_trial if self.study.get_trials(states=[TrialState.COMPLETE]) else None


def read_search(folder: Path) -> dict[str, Any]:
    """The content of a study's search.json; empty if the study is no search or the file, which is named, is broken."""
    path = folder / "search.json"
    try:
        search = read_json(path)
    except FileNotFoundError:
        return {}
    except (InputError, OSError) as error:
        log.warning(f"{describe(error)}; taken for missing")
        return {}
    types = {"metric": str, "space": list, "trials": list}
    keys = {"number": int, "run": str | None, "params": dict, "value": float | None}
    whole = all(isinstance(search.get(key), kind) for key, kind in types.items()) and all(
        isinstance(trial, dict) and all(isinstance(trial.get(key), kind) for key, kind in keys.items())
        for trial in search["trials"]
    )
    if not whole:
        log.warning(f"{path}: no search; taken for missing")
    return search if whole else {}
