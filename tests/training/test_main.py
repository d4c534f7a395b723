"""What one job of a sweep does before and after training."""

import os

import pytest
from omegaconf import OmegaConf

import train as script
from tests.training.test_outcome import multiprocessing_lock

main = script.main.__wrapped__


def job(run):
    return main(OmegaConf.create({**run.config}))


def test_a_done_run_is_skipped_with_one_line_and_rerun_trains_it_again(make_run, caplog):
    caplog.set_level("INFO")
    run = make_run("epochs=1")
    accuracy = job(run)
    written = os.stat(run.folder / "result.json").st_mtime_ns
    caplog.clear()
    assert job(run) == accuracy and os.stat(run.folder / "result.json").st_mtime_ns == written
    assert caplog.messages == [f"{run.folder}: done, skipped (rerun=true trains it again)"]
    assert job(make_run("epochs=1", "rerun=true")) == accuracy
    assert os.stat(run.folder / "result.json").st_mtime_ns > written


def test_a_run_in_other_hands_is_left_alone(make_run, caplog):
    caplog.set_level("INFO")
    run = make_run()
    run.begin()
    with multiprocessing_lock(run.folder):
        assert job(run) is None
    assert caplog.messages == [f"{run.folder}: being trained by another process, skipped"]
    assert run.result() is None


def test_a_failed_run_stops_a_sweep_only_if_asked_to(make_run, caplog):
    assert job(make_run("data.holdout=300")) is None
    assert "data.holdout=300: must lie between 1 and 299" in caplog.text
    with pytest.raises(SystemExit) as stop:
        job(make_run("data.holdout=300", "fail_fast=true"))
    assert stop.value.code == 1
