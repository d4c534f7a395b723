"""The jobs of a sweep are what Hydra would compose for each."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from vitbn.config import compose as config
from vitbn.config.jobs import Variants, jobs

CONF = str(Path(__file__).parents[1] / "conf")
config.register()

SWEEPS = {
    "numbers and choices": ["depth=2,1", "lr=1,0.003,1e-2", "seed=range(2)", "model.dropout=0,0.5"],
    "groups": ["model=vit,vitbn,mlp", "norm.ffn_in=none", "batch_size=50,100", "matmul=null,medium"],
    "a group's own keys": ["optimizer=sgd,adam", "lr=0.1,0.2", "schedule=constant,cosine", "epochs=1,2"],
    "keys that others refer to": [
        "data.channels=1,3",
        "pool=cls,mean",
        "+data.val_batch_size=7,8",
        "norm.final=batch,layer",
    ],
    "a value for a reference": ["optimizer.lr=0.1,0.2", "lr=0.3,0.4", "model.depth=1,2", "depth=3,4"],
    "booleans": ["compile=true,false", "recalibrate_bn=false,true", "trainer.devices=1,2"],
    "references": ["depth=2,3", "epochs=5,${depth}", "seed=1,2"],
    "a reference in a word": ["lr=0.1,0.2", "study=s${lr}"],
    "forced": ["depth=2,3", "++depth=4", "seed=1,2"],
    "forced lists": ["++depth=4,5", "experiment=fig8", "seed=1"],
    "an experiment that sweeps": ["experiment=quickstart", "seed=1,2"],
}


@pytest.mark.parametrize("words", SWEEPS.values(), ids=SWEEPS)
def test_jobs_are_what_hydra_composes(words):
    with initialize_config_dir(CONF, version_base="1.3"):
        sweep = GlobalHydra.instance().hydra.compose_config("config", words, run_mode=RunMode.MULTIRUN)
        found = [(list(each), tree) for each, tree in jobs(sweep)]
        assert len(found) > 1
        for each, tree in found:
            expected = config.plain(compose("config", overrides=each))
            assert tree == expected and str(tree) == str(expected), each


def test_values_that_meet_in_one_place_are_resolved_together():
    variants = Variants(OmegaConf.create({"a": 1, "b": 2, "both": "${a}-${b}", "list": ["${a}"]}))
    assert variants.having({"a": 3}) == {"a": 3, "b": 2, "both": "3-2", "list": [3]}
    assert variants.having({"a": 3, "b": 4}) == {"a": 3, "b": 4, "both": "3-4", "list": [3]}
    assert variants.having({"a": 1, "b": 2}) == {"a": 1, "b": 2, "both": "1-2", "list": [1]}


def test_what_one_run_does_to_its_configuration_stays_there():
    variants = Variants(OmegaConf.create({"a": 1, "list": ["${a}"]}))
    variants.having({"a": 2})["list"].append(5)
    assert variants.having({"a": 2})["list"] == [2]
