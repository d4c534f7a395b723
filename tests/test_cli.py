import os
import subprocess
import sys
from pathlib import Path

import pytest

import vitbn
from vitbn import cli

ROOT = Path(__file__).parents[1]
PRINTS = "print('x' * 10**6)"
TABLE = "__import__('rich.console').console.Console().print('x' * 10**6)"


@pytest.mark.parametrize("prints", [PRINTS, TABLE, "None"])
def test_a_reader_that_goes_away_ends_a_command_as_it_ends_cat(prints):
    """`vitbn status x | head`, for what is printed at once, by rich, and when the command is over."""
    code = (
        "import sys; from vitbn import cli; cli._status = lambda args: "
        f"print('y') or {prints} or 0; sys.exit(cli.main(['status', 'x']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 141)


def test_other_endings_are_left_alone(monkeypatch):
    monkeypatch.setattr(cli, "_status", lambda args: 3)
    assert cli.main(["status", "x"]) == 3
    monkeypatch.setattr(cli, "_status", lambda args: sys.exit(4))
    with pytest.raises(SystemExit, match="4"):
        cli.main(["status", "x"])


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"vitbn {vitbn.__version__}\n"


def vitbn_command(folder, *arguments, **environment):
    command = [sys.executable, "-m", "vitbn", *arguments]
    return subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)


def test_vitbn_train_is_train_py(tmp_path):
    words = ["model=vitbnffn", "depth=2", "--cfg", "job", "--resolve"]
    done = vitbn_command(tmp_path, "train", *words)
    script = subprocess.run([sys.executable, ROOT / "train.py", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "depth: 2" in done.stdout and done.stdout == script.stdout
    wrong = vitbn_command(tmp_path, "train", "depht=2")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: depht=2: unknown key; did you mean depth?")


@pytest.mark.parametrize(
    ("line", "choices"),
    [("vitbn train schedule=", "schedule=constant schedule=cosine "), ("vitbn ", "train\nstatus\ntable\nreport\n")],
)
def test_the_shell_completes_commands_and_what_train_takes(tmp_path, line, choices):
    done = vitbn_command(tmp_path, "-sc", "query=bash", COMP_LINE=line)
    assert done.stdout.startswith(choices), done.stderr


def test_models_lists_the_networks_of_a_library(capsys):
    assert cli.main(["models", "torchvision", "resnet1*"]) == 0
    assert capsys.readouterr().out.split() == ["resnet101", "resnet152", "resnet18"]
    assert cli.main(["models", "torchvision", "nothing*"]) == 2
    assert "nothing*: no network of torchvision is called so" in capsys.readouterr().err
