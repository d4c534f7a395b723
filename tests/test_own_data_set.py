"""docs/datasets.md: a data set of one's own, made and trained as documented."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[1]


def test_a_data_set_of_ones_own_trains_as_documented(tmp_path):
    section = (ROOT / "docs" / "datasets.md").read_text().partition("## A data set of your own")[2]
    code, settings, command = re.findall(r"```\w*\n(.*?)```", section, re.DOTALL)
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "rings.yaml").write_text(settings)
    (tmp_path / "rings.py").write_text(code)
    path, python, script, *overrides = shlex.split(command)
    assert (path, python, script) == ("PYTHONPATH=.", "python", "train.py")
    small = ["trainer=cpu", "logger=none", "model.dim=16"]
    environment = {"PATH": "", "PYTHONPATH": f".:{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *overrides, *small],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "runs").glob("default/*/result.json")
    content = json.loads(result.read_text())
    assert content["status"] == "done" and content["run"]["data"] == "rings"
    assert [sum(row) for row in content["confusion"]] == [200, 200]
