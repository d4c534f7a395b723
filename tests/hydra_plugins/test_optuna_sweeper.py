import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def trials(folder):
    return json.loads((folder / "search.json").read_text())["trials"]


def typed(folder, clothes, *words):
    fixed = ["search=lr_depth", "data=fashion_mnist", f"data.root={clothes}", "model.dim=16", "model.heads=2",
             "model.dim_head=8", "model.mlp_dim=24", "epochs=1", "trainer=cpu", "logger=none"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, ROOT / "train.py", *fixed, *words], cwd=folder, env=environment,
                          capture_output=True, text=True)  # fmt: skip


def test_a_search_as_it_is_typed(tmp_path, clothes):
    """A divergence among the trials, a value that is fixed, listed ones that become choices, and the best of them."""
    words = ["data.holdout=50", "batch_size=25", "++depth=1", "norm=none", "++lr=1e30,0.003", "hydra.sweeper.trials=4",
             "trainer.gradient_clip_val=2"]  # fmt: skip
    done = typed(tmp_path, clothes, *words)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "lr_depth"
    recorded = trials(folder)
    assert len(recorded) == 4 and {trial["value"] is None for trial in recorded if trial["params"]["lr"] == "1e30"} <= {
        True
    }
    assert {tuple(trial["params"]) for trial in recorded} == {("lr", "schedule.factor", "schedule.every")}
    assert "batch_size" in (folder / "experiment" / "best.yaml").read_text() and (folder / "summary.csv").exists()
    show = [sys.executable, ROOT / "train.py", "--config-dir", folder, "experiment=best", "--cfg", "job"]
    best = subprocess.run(show, cwd=tmp_path, capture_output=True, text=True)
    assert "gradient_clip_val: 2.0" in best.stdout
    assert "lr: 0.003" in best.stdout and "holdout: 0" in best.stdout and "batch_size: 25" in best.stdout
    again = typed(tmp_path, clothes, *words)
    assert again.returncode == 0 and trials(folder) == recorded


@pytest.mark.parametrize(("words", "message"), [
    (["data.holdout=0"], "data.holdout=0: a search needs held-out training images, e.g. data.holdout=5000"),
    (["hydra.sweeper.metric=test/acc"], "hydra.sweeper.metric=test/acc: choose from val/acc, val/loss"),
    (["hydra.sweeper.n_parallel=0"], "hydra.sweeper.n_parallel=0: must be a whole number"),
    (["+hydra.sweeper.space.lr.step=0.1", "data.holdout=50"], "hydra.sweeper.space.lr={"),
    (["depth=0,-1", "data.holdout=50"], "depth=0: must be a whole number, at least 1"),
    (["norm.ffn_in=ghost_batch", "data.holdout=50"], "virtual=25 does not divide batch_size=20"),
    (["hydra.sweeper.space.depth=5"], "hydra.sweeper.space.depth=5: must be"),
])  # fmt: skip
def test_a_search_that_cannot_be_is_refused_in_one_line(tmp_path, clothes, words, message):
    done = typed(tmp_path, clothes, *words)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs" / "lr_depth" / "search.db").exists()


def test_another_metric_is_another_search_and_keys_that_a_schedule_lacks_are_not_searched(tmp_path, clothes):
    words = ["data.holdout=50", "batch_size=50", "depth=1", "hydra.sweeper.trials=1", "schedule=cosine",
             "trainer.limit_train_batches=1"]  # fmt: skip
    for metric in ("val/acc", "val/loss"):
        done = typed(tmp_path, clothes, *words, f"hydra.sweeper.metric={metric}")
        assert done.returncode == 0, done.stderr
        recorded = json.loads((tmp_path / "runs" / "lr_depth" / "search.json").read_text())
        assert recorded["metric"] == metric and recorded["space"] == ["lr"] and len(recorded["trials"]) == 1
        assert (recorded["trials"][0]["value"] > 1) == (metric == "val/loss")


def test_a_search_takes_the_choices_of_an_experiment(tmp_path, clothes):
    words = ["experiment=quickstart", "data.holdout=50", "batch_size=50", "depth=1", "hydra.sweeper.trials=1",
             "trainer.limit_train_batches=1", "schedule=constant"]  # fmt: skip
    done = typed(tmp_path, clothes, *words)
    assert done.returncode == 0, done.stderr
    (found,) = (tmp_path / "runs").glob("*/search.json")
    assert "model" in json.loads(found.read_text())["space"]
