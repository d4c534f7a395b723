"""A search on disk: Optuna's storage in search.db, and search.json for readers. Imports no torch."""

import hashlib
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


def _distribution(key: str, kind: str, options: dict[str, Any]) -> Any:
    """Optuna's; InputError with its reason if it takes no such options."""
    import optuna

    try:
        return getattr(optuna.distributions, kind)(**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"hydra.sweeper.space.{key}={options}: {describe(error)}") from None


@dataclass
class Search:
    """Trials of one configuration over a space of parameters, in search.db of the study's folder.

    What is drawn for a trial is a function of the seed, its number and the trials of the rounds before: a search that
    was killed goes on with the trials it would have had.
    """

    folder: Path
    metric: str
    study: Any  # Optuna's
    space: dict[str, Any]  # key -> Optuna's distribution
    seed: int
    interrupted: list[Any] = field(default_factory=list)  # trials that an earlier process began and did not end

    @classmethod
    def open(cls, folder: Path, name: str, space: Mapping[str, Parameter], metric: str, seed: int) -> "Search":
        """Create the search of that name or load it; InputError without Optuna or if search.db cannot be read."""
        try:
            import optuna
        except ImportError:
            raise InputError("a search needs Optuna; pip install -e '.[optuna]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = folder.resolve() / "search.db"
        direction: Any = "minimize" if metric.endswith("loss") else "maximize"
        distributions = {key: _distribution(key, *of_key) for key, of_key in space.items()}
        try:
            study = optuna.create_study(
                storage=f"sqlite:///{path}", study_name=name, direction=direction, load_if_exists=True
            )
            interrupted = study.get_trials(states=[optuna.trial.TrialState.RUNNING])
        except Exception as error:  # of Optuna, SQLAlchemy and Alembic
            reason = describe(error.__cause__ or error).partition(" [SQL")[0]
            remedy = "delete it to search anew; runs that are done are not trained again"
            raise InputError(f"{folder / 'search.db'}: cannot be read ({reason}); {remedy}") from None
        return cls(folder, metric, study, distributions, seed, interrupted)

    @property
    def ended(self) -> int:
        """How many trials are done or have failed."""
        return sum(trial.state.is_finished() for trial in self.study.trials)

    def next_round(self, size: int, trials: int) -> list[Any]:
        """The trials (number, params) to train together, at most `size`; empty when `trials` have ended.

        Those of an interrupted round first, by themselves: the next one is drawn in the knowledge of their values.
        """
        batch = [trial for trial in self.interrupted if trial.number < trials][:size]
        self.interrupted = self.interrupted[len(batch) :]
        begun = len(self.study.trials)
        first = batch[0].number if batch else begun
        end = min(trials, (first // size + 1) * size)
        return batch + [self._draw(number) for number in range(begun, end)]

    def _draw(self, number: int) -> Any:
        """In memory, and stored whole: a process that is killed meanwhile leaves no half of a trial."""
        import optuna

        seed = int(hashlib.sha256(f"{self.seed} {number}".encode()).hexdigest()[:8], 16)
        sampler = optuna.samplers.TPESampler(seed=seed)
        memory = optuna.create_study(direction=self.study.direction, sampler=sampler)
        memory.add_trials(self.study.trials)
        params, running = memory.ask(self.space).params, optuna.trial.TrialState.RUNNING
        self.study.add_trial(optuna.trial.create_trial(state=running, params=params, distributions=self.space))
        return self.study.trials[number]

    def tell(self, trial: Any, run_id: str, value: float | None) -> None:
        """Record the trial's value; None if the run diverged or failed, a failed trial for Optuna."""
        from optuna.trial import TrialState

        run_ids = {entry["number"]: entry["run"] for entry in read_search(self.folder).get("trials", [])}
        ended = {
            t.number: (run_ids.get(t.number), t.params, t.value) for t in self.study.trials if t.state.is_finished()
        }
        ended[trial.number] = (run_id, trial.params, value)
        trials = [
            {"number": number, "run": run, "params": params, "value": value}
            for number, (run, params, value) in sorted(ended.items())
        ]
        content = {"name": self.study.study_name, "metric": self.metric, "space": list(self.space), "trials": trials}
        atomic.write_json(self.folder / "search.json", content)  # first: the database does not know the run
        self.study.tell(trial.number, value, TrialState.FAIL if value is None else TrialState.COMPLETE)

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
