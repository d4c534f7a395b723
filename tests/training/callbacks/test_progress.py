"""What a run says of itself."""

import io
import logging
import re
import sys

import pytest

from vitbn.training.outcome import attempt
from vitbn.training.train import train


def lines(caplog):
    return [record.message for record in caplog.records if record.name == "vitbn"]


@pytest.mark.slow
def test_every_epoch_is_a_line_of_the_log_with_the_time_left(make_run, caplog):
    caplog.set_level(logging.INFO, "vitbn")
    attempt(make_run(), train)
    first, second = [line for line in lines(caplog) if line.startswith("epoch")]
    losses = r"train/loss \d\.\d{4}  val/loss \d\.\d{4}  val/acc \d+\.\d\d%"
    assert re.fullmatch(rf"epoch 1/2  {losses}  \d\d:\d\d left", first)
    assert re.fullmatch(rf"epoch 2/2  {losses}", second)
    assert len(first.replace("1/2", "10/99").replace("00:00 left", "1:00:00 left")) < 80


def test_a_resumed_run_says_where_it_goes_on(make_run, kill, caplog):
    caplog.set_level(logging.INFO, "vitbn")
    run = make_run("checkpoint.every_minutes=1e-9")
    kill(run, "on_train_batch_end", 9)  # of 6 per epoch; the checkpoint is that of step 8
    attempt(run, train)
    (line,) = [line for line in lines(caplog) if line.startswith("goes on")]
    assert line == "goes on at epoch 2 of 2, step 3 of 6"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_of_several_runs_at_once_none_draws_a_bar(make_run, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("VITBN_PARALLEL", "1")
    attempt(make_run(), train)
    assert "|" not in terminal.getvalue()


def test_the_bar_fits_its_terminal_and_counts_from_one(make_run, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    attempt(make_run("batch_size=10"), train)
    shown = [text for text in re.split(r"[\r\n]", terminal.getvalue()) if "|" in text]
    assert any(re.match(r"epoch 1/2 \|.*\| 20/30, loss=\d\.\d{3}, left=\d\d:\d\d", text) for text in shown), shown
    assert any(re.match(r"epoch 2/2 \|.*\| 30/30, loss=", text) for text in shown)
    assert not any(text.startswith(("Testing", "Epoch")) for text in shown)
