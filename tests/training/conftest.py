import csv
import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from vitbn.store.run import Run
from vitbn.training import train as training
from vitbn.training.outcome import attempt


@pytest.fixture
def add_callback(monkeypatch):
    """Adds a callback, before those that write checkpoints, to the next training of this process."""

    def add(callback: Callback) -> None:
        def callbacks(*args: Any) -> list[Callback]:
            monkeypatch.setattr(training, "checkpoint_callbacks", original)
            return [callback, *original(*args)]

        original = training.checkpoint_callbacks
        monkeypatch.setattr(training, "checkpoint_callbacks", callbacks)

    return add


@pytest.fixture
def at(add_callback):
    """`at(hook, n, action)`: calls `action` when the next training comes to a hook for the n-th time."""

    class At(Callback):
        def __init__(self, hook, n, action):
            self.n, self.action, self.count = n, action, 0
            setattr(self, hook, self.tick)

        def tick(self, *args, **kwargs):
            self.count += 1
            if self.count == self.n:
                self.action()

    return lambda hook, n, action: add_callback(At(hook, n, action))


@pytest.fixture
def kill(at):
    """`kill(run, hook, n)`: trains until that hook, where nothing below the training sees the end, as with kill -9."""

    class Killed(BaseException):
        pass

    def die():
        raise Killed

    def train_and_kill(run: Run, hook: str, n: int) -> None:
        at(hook, n, die)
        with pytest.raises(Killed):
            attempt(run, training.train)
        assert run.result() is None

    return train_and_kill


@dataclass
class Outcome:
    """Everything a run leaves that must not depend on interruptions; equal if all of it is."""

    tables: tuple[list[dict[str, str]], str]
    result: dict[str, Any]
    checkpoint: dict[str, Any]

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Outcome)
        weights, others = self.checkpoint["state_dict"], other.checkpoint["state_dict"]
        assert self.tables == other.tables and self.result == other.result
        assert weights.keys() == others.keys() and all(torch.equal(weights[key], others[key]) for key in weights)
        moments, others = (x.checkpoint["optimizer_states"][0]["state"] for x in (self, other))
        assert all(torch.equal(moments[i][key], others[i][key]) for i in moments for key in moments[i])
        keys = ("epoch", "global_step", "lr_schedulers")
        assert [self.checkpoint[key] for key in keys] == [other.checkpoint[key] for key in keys]
        return True


@pytest.fixture(scope="session")
def outcome():
    """`outcome(run)`: what the run has left."""

    def read(run: Run) -> Outcome:
        with (run.folder / "metrics.csv").open() as file:
            rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
        result = json.loads((run.folder / "result.json").read_text())
        del result["seconds"]
        steps = (run.folder / "steps.csv").read_text()
        return Outcome((rows, steps), result, torch.load(run.checkpoints / "last.ckpt", weights_only=True))

    return read


@pytest.fixture(scope="session")
def undisturbed(outcome):
    """`undisturbed(make_run, *overrides)`: the outcome of a run that nothing interrupts, trained once per session."""
    known: dict[tuple[str, ...], Outcome] = {}

    def read(make_run: Any, *overrides: str) -> Outcome:
        if overrides not in known:
            run = make_run(*overrides, "study=undisturbed")
            assert attempt(run, training.train)["status"] == "done"
            known[overrides] = outcome(run)
        return known[overrides]

    return read
