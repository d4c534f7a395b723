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
    (["hydra.sweeper.metric=test/acc"], "hydra.sweeper.metric=test/acc: must be val/acc or val/loss"),
    (["hydra.sweeper.space.depth=5"], "hydra.sweeper.space.depth=5: must be"),
])  # fmt: skip
def test_a_search_that_cannot_be_is_refused_in_one_line(tmp_path, clothes, words, message):
    done = typed(tmp_path, clothes, *words)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs" / "lr_depth" / "search.db").exists()
