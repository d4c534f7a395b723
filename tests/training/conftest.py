from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from vitbn.config import compose as config
from vitbn.store.run import Run

ROOT = Path(__file__).parents[2]
SMALL = ["data=fashion_mnist", "trainer=cpu", "model.dim=16", "model.heads=2", "model.dim_head=8", "model.mlp_dim=24",
         "depth=1", "epochs=2", "batch_size=50"]  # fmt: skip


@pytest.fixture
def make_run(tmp_path, clothes):
    """A small run on the made-up data set; overrides as on the command line."""
    config.register()

    def make(*overrides: str) -> Run:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            fixed = [f"data.root={clothes}", f"runs={tmp_path}/runs"]
            return Run(config.plain(compose("config", overrides=[*SMALL, *fixed, *overrides])))

    return make
