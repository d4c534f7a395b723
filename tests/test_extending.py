"""docs/extending.md: its files are written and its commands are run, in the order of the page."""

import json
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from vitbn.errors import InputError
from vitbn.norms import table as norms
from vitbn.weights.network import load_network

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
FILE = re.compile(r"`([\w/]+\.(?:py|yaml))`[^`]*?:\n\n```\w+\n(.*?)```", re.DOTALL)
SMALL = ["trainer=cpu", "logger=none", "model.dim=16", "model.heads=2", "model.dim_head=8", "model.mlp_dim=24"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where someone who follows the page stands."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in FILE.findall(PAGE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def trained(folder: Path, section: str) -> list[Path]:
    """Type the commands of a section of the page; the new runs' folders."""
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]
    before = set(folder.glob("runs/*/*/result.json"))
    for command in re.findall(r"^(?:PYTHONPATH=\. )?vitbn train .*", text, re.MULTILINE):
        words = shlex.split(command.removeprefix("PYTHONPATH=. "))[1:]
        done = subprocess.run(
            [sys.executable, "-m", "vitbn", *words, *SMALL],
            cwd=folder, env={"PATH": "", "PYTHONPATH": f".:{ROOT / 'src'}", "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    results = sorted(set(folder.glob("runs/*/*/result.json")) - before)
    assert results and all(json.loads(path.read_text())["status"] == "done" for path in results)
    return [path.parent for path in results]


def test_a_norm(folder, monkeypatch):
    runs = trained(folder, "A norm")
    assert [run.parent.name for run in runs] == ["default", "tanh", "tanh"]
    (foreign,) = (run for run in runs if "final: tanh_norm" in (run / "config.yaml").read_text())
    with pytest.raises(InputError, match=r"unknown kind 'tanh_norm\.DynamicTanh'"):
        load_network(foreign)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(norms, "NORMS", dict(norms.NORMS))
    import_module("tanh_norm")  # as the page does
    names = [type(load_network(run).net.final_norm).__name__ for run in runs if run.parent.name == "tanh"]
    assert sorted(names) == ["DynamicTanh", "LayerNorm"]


def test_a_data_set(folder):
    (run,) = trained(folder, "A data set")
    content = json.loads((run / "result.json").read_text())
    assert content["run"]["data"] == "rings" and [sum(row) for row in content["confusion"]] == [200, 200]


def test_a_metric(folder):
    (run,) = trained(folder, "A metric")
    header, *rows = (run / "metrics.csv").read_text().splitlines()
    assert header.endswith(",weight norm") and [float(row.split(",")[-1]) > 1 for row in rows] == [True, True]


def test_an_experiment(folder):
    runs = trained(folder, "An experiment")
    assert [run.parent.name for run in runs] == ["deep", "deep"]
