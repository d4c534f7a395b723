import subprocess
import sys
from dataclasses import replace

import pytest

from vitbn.analysis import commands
from vitbn.analysis.arms import FinishedRuns
from vitbn.analysis.claims import Claim
from vitbn.analysis.verdict import judge_claim
from vitbn.errors import InputError


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "180")


@pytest.fixture
def trainer(monkeypatch):
    """Commands that would have been run, and the exit status they get."""
    calls = []

    def fake(words, **keys):
        calls.append((words, keys))
        return subprocess.CompletedProcess(words, fake.status)

    fake.calls, fake.status = calls, 0
    monkeypatch.setattr(commands.subprocess, "run", fake)
    return fake


def test_claims_print_verdicts_and_the_command_for_what_is_missing(run, study, capsys, wide):
    for seed in range(3):
        run(model="vit", depth=6, seed=seed, final=0.8)
        run(model="vitbnffn", depth=6, seed=seed, final=0.9)
    assert commands.claims(["fig8"], study.parent) == 0
    out = capsys.readouterr().out
    assert "SUPPORTED" in out and "+10.00 points" in out and "[+9.99, +10.01]" in out
    assert f"vitbn train -m experiment=fig8 seed=0,1,2 runs={study.parent}" in out


def test_the_verdicts_as_markdown(run, study, capsys):
    for seed in range(3):
        run(model="vit", depth=3, lr=0.003, seed=seed, final=0.90)
    assert commands.claims(["fig10", "webapp"], study.parent, markdown=True) == 0
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert head == "| claim | part | verdict | expected | effect | 95 % interval | n | verdict's 99 % interval |"
    assert len({line.count("|") for line in (head, rule, *rows)}) == 1
    assert [line for line in rows if "**webapp**" in line] and rows[-1].startswith("| | clean test images | NOT RUN |")


def test_a_claims_texts_are_no_markup(tmp_path, capsys, wide, part):
    claim = Claim("mine", "[/x] here", "a|b <b>c</b> [/x]", "article", 3, [replace(part(), id="[/y]")])
    result = judge_claim(claim, FinishedRuns([]))
    commands.print_verdicts([result], tmp_path)
    out = capsys.readouterr().out
    assert "a|b <b>c</b> [/x] ([/x] here)" in out and "[/y]" in out
    assert r"| **mine** | a\|b &lt;b>c&lt;/b> \[/x\] |" in commands.markdown_table([result])


def test_without_ids_every_claim_is_shown_even_without_runs(tmp_path, capsys, wide):
    assert commands.claims([], tmp_path) == 0
    out = capsys.readouterr().out
    assert all(f"│ {name}" in out for name in ("fig8", "yao-crash", "notebook-loss")) and "REFUTED" not in out


def test_unreadable_runs_are_warned_about(run, study, capsys):
    run()
    (run(seed=1) / "result.json").write_text("{")
    commands.claims(["fig8"], study.parent)
    assert "warning: " in capsys.readouterr().err


def test_run_trains_exactly_what_is_missing(run, study, trainer):
    for seed in (0, 2):
        for depth in (4, 5, 6, 7):
            for model in ("vit", "vitbnffn"):
                run(model=model, depth=depth, seed=seed)
    assert commands.claims(["fig8"], study.parent, run=True) == 0
    ((words, _),) = trainer.calls
    assert words[1:] == ["-m", "vitbn", "train", "-m", "experiment=fig8", "seed=1", f"runs={study.parent}"]


def test_commands_that_two_claims_share_run_once(tmp_path, trainer):
    commands.claims(["notebook-accuracy", "notebook-loss"], tmp_path, run=True)
    assert len(trainer.calls) == 1


def test_a_failing_training_is_said_and_the_status_is_not_0(tmp_path, trainer, capsys):
    trainer.status = 1
    assert commands.claims(["webapp"], tmp_path, run=True) == 1
    assert "failed: vitbn train -m experiment=digits" in capsys.readouterr().err


def test_run_wants_names(tmp_path, trainer):
    with pytest.raises(InputError, match="or all"):
        commands.claims([], tmp_path, run=True)
    commands.claims(["all"], tmp_path, run=True)
    assert len(trainer.calls) > 8


def test_report_refuses_bad_folders(study):
    with pytest.raises(InputError, match="name a study"):
        commands.report([])
    with pytest.raises(InputError, match="no such folder"):
        commands.report([str(study)])


def test_reading_and_judging_import_nothing_heavy():
    code = "import vitbn.analysis.commands, sys; print([m for m in sys.modules if m in {0}])"
    heavy = {
        "torch",
        "lightning",
        "pytorch_lightning",
        "hydra",
        "omegaconf",
        "matplotlib",
        "scipy",
        "pandas",
        "jinja2",
    }
    command = [sys.executable, "-c", code.format(heavy)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_without_runs_of_ones_own_the_kept_ones_are_read_and_not_trained_into(run, tmp_path, monkeypatch, capsys, wide):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "KEPT", tmp_path / "results")
    for seed in range(3):
        run(into=tmp_path / "results" / "article", model="vit", depth=6, seed=seed, final=0.8)
        run(into=tmp_path / "results" / "article", model="vitbnffn", depth=6, seed=seed, final=0.9)
    assert commands.claims(["fig8"]) == 0
    out = capsys.readouterr().out
    assert "read: results/article (6 runs)" in out and "1 SUPPORTED" in out
    assert "vitbn train -m experiment=fig8 seed=0,1,2\n" in out and str(tmp_path) not in out
    run(into=tmp_path / "runs" / "article", model="vit", depth=6)
    commands.claims(["fig8"])
    assert "read: runs/article (1 runs)" in capsys.readouterr().out


def test_no_name_is_cut_in_80_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    commands.claims([], tmp_path)
    out = capsys.readouterr().out
    assert "…" not in out.split("\n\n")[0] and "│ notebook-accuracy" in out and "NOT RUN" in out
