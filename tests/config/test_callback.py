import os

import pytest
from hydra import compose, initialize_config_dir

from vitbn.config.callback import RunCallback
from vitbn.config.compose import CONF, to_plain_dict
from vitbn.store.run import Run


def start(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
    RunCallback().on_run_start(config)
    return Run(to_plain_dict(config))


def test_a_complete_run_in_a_folder_that_cannot_be_written_is_skipped(tmp_path, monkeypatch, capsys):
    words = (f"runs={tmp_path}", "data=mnist5k")
    run = start(*words)
    run.begin()
    run.finish("done", metrics={}, epochs=1)
    start(*words)  # goes on to Hydra's job
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit) as exit:
        start(*words)
    assert (
        exit.value.code == 0
        and capsys.readouterr().out == f"{run.folder}: done, skipped (rerun=true trains it again)\n"
    )
    start(*words, "rerun=true")
    start(*words, "seed=1")
