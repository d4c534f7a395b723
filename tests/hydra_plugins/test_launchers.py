"""Sweeps over several workers come to what a sweep in one process comes to."""

import csv
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OVERRIDES = ["data=fashion_mnist", "model.dim=16", "model.heads=2", "model.dim_head=8", "model.mlp_dim=24", "depth=1",
             "epochs=2", "batch_size=50", "trainer=cpu", "logger=none", "seed=0,1"]  # fmt: skip
NEEDS = {"joblib": "joblib", "slurm_local": "submitit", "ray": "ray"}


def sweep(folder, clothes, launcher, *more):
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    if launcher == "basic":  # with two threads sums are rounded in another order
        environment["OMP_NUM_THREADS"] = "1"
    arguments = [*OVERRIDES, f"data.root={clothes}", f"hydra/launcher={launcher}", f"study={launcher}", *more]
    return subprocess.run([sys.executable, ROOT / "train.py", "-m", *arguments], cwd=folder, env=environment,
                          capture_output=True, text=True)  # fmt: skip


def outcomes(folder):
    rows = csv.DictReader((folder / "summary.csv").open())
    return [{key: row[key] for key in row if key not in ("seconds", "hardware")} for row in rows]  # with its threads


@pytest.mark.parametrize("launcher", NEEDS)
def test_a_launcher_changes_nothing_but_where_runs_train(tmp_path, clothes, launcher):
    """And every run has one thread, a failing run is recorded, and a second time nothing is trained."""
    if find_spec(NEEDS[launcher]) is None:
        pytest.skip(f"needs {NEEDS[launcher]}")
    for name in ("basic", launcher):
        done = sweep(tmp_path, clothes, name, "data.holdout=50,300")
        assert done.returncode == 1, done.stderr  # 300 of 300 images cannot be held out
    rows = outcomes(tmp_path / "runs" / launcher)
    assert rows == outcomes(tmp_path / "runs" / "basic")
    assert sorted(row["status"] for row in rows) == ["done", "done", "failed", "failed"]
    results = [path.read_text() for path in (tmp_path / "runs" / launcher).glob("*/result.json")]
    assert sum("1 threads" in text for text in results) == 2
    again = sweep(tmp_path, clothes, launcher, "data.holdout=50")
    assert again.returncode == 0 and outcomes(tmp_path / "runs" / launcher) == rows


def test_a_launcher_that_is_not_installed_is_named_with_its_extra(tmp_path, clothes):
    if find_spec("ray") is not None:
        pytest.skip("needs an environment without ray")
    done = sweep(tmp_path, clothes, "ray")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "hydra/launcher=ray: needs a package that is not installed; pip install -e '.[ray]'" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_slurm_is_asked_for_before_anything_is_written(tmp_path, clothes):
    if find_spec("submitit") is None:
        pytest.skip("needs submitit")
    done = sweep(tmp_path, clothes, "slurm")
    assert done.returncode == 2 and "hydra/launcher=slurm: no srun here" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "runs").exists()
