import json
import logging

import torch

from vitbn.training.outcome import attempt
from vitbn.training.train import train


def test_other_threads_are_said_and_recorded(make_run, kill, caplog):
    caplog.set_level(logging.WARNING)
    run = make_run()
    kill(run, "on_train_epoch_start", 2)
    torch.set_num_threads(2)
    try:
        attempt(run, train)
    finally:
        torch.set_num_threads(1)
    (line,) = (r.getMessage() for r in caplog.records if "goes on after step" in r.getMessage())
    assert "after step 6 with another hardware" in line and ", 1 threads -> " in line and line.count("2 threads") == 1
    first, second = json.loads((run.folder / "result.json").read_text())["parts"]
    assert (first["from_step"], second["from_step"]) == (0, 6)
    assert first["hardware"].endswith("1 threads") and second["hardware"].endswith("2 threads")
    assert type(first["torch"]) is str


def test_a_run_resumed_in_its_environment_is_as_any_other(make_run, kill, caplog):
    caplog.set_level(logging.WARNING)
    run = make_run()
    kill(run, "on_train_epoch_start", 2)
    assert "parts" not in attempt(run, train)
    assert "goes on after step" not in caplog.text
