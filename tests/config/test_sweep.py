"""The jobs of a sweep are what Hydra would compose for each."""

import re
import shlex
from pathlib import Path

import pytest

from vitbn.analysis.arms import FinishedRuns
from vitbn.analysis.claims import load_claims
from vitbn.analysis.records import RunRecord
from vitbn.analysis.verdict import missing
from vitbn.config.checks import check
from vitbn.config.compose import compose_config, to_plain_dict
from vitbn.config.sweep import command_jobs
from vitbn.errors import InputError
from vitbn.store.labels import flatten

SWEEPS = {
    "numbers and choices": ["depth=2,1", "lr=1,0.003,1e-2", "seed=range(2)", "model.dropout=0,0.5"],
    "groups": ["model=vit,vitbn,mlp", "norm.ffn_in=none", "batch_size=50,100", "data.channels=1,3"],
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
    "a reference within a value": ["lr=0.1,0.2", "study=s${lr}"],
    "forced": ["depth=2,3", "++depth=4", "seed=1,2"],
    "forced lists": ["++depth=4,5", "experiment=fig8", "seed=1"],
    "references to the seed": ["seed=1,2", "epochs=${seed}", "study=a,s${seed}"],
    "a seed that is no plain number": ["seed=1,2", "++seed=3"],
    "a reference beside forced values": ["depth=5,6", "++depth=${epochs}", "epochs=3,4"],
    "a group's part and a whole": ["model.dim=16,32", "++model={mlp_dim: 24}"],
    "what is taken away": ["~model.qkv_bias", "model.dim=16,32"],
    "an experiment that sweeps": ["experiment=quickstart", "seed=1,2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", SWEEPS.values(), ids=SWEEPS)
def test_jobs_are_what_hydra_composes(arguments):
    jobs = command_jobs(arguments)
    assert len(jobs) > 1
    for job in jobs:
        composed = to_plain_dict(compose_config(job.overrides))
        assert job.config == composed and str(job.config) == str(composed), job.overrides


def test_all_combinations_the_last_key_varying_fastest():
    assert [job.overrides for job in command_jobs(["depth=1,2", "lr=0.1", "seed=range(2)"])] == [
        ["depth=1", "lr=0.1", "seed=0"], ["depth=1", "lr=0.1", "seed=1"],
        ["depth=2", "lr=0.1", "seed=0"], ["depth=2", "lr=0.1", "seed=1"],
    ]  # fmt: skip


def test_what_one_run_does_to_its_configuration_stays_there():
    first, second = command_jobs(["seed=1,2"])
    first.config["data"]["mean"] = 5
    assert second.config["data"]["mean"] == 0


def test_an_interval_is_refused():
    with pytest.raises(InputError, match=r"lr=interval\(0, 1\): list the values"):
        command_jobs(["lr=interval(0, 1)"])


@pytest.mark.parametrize("claim", load_claims(), ids=lambda claim: claim.id)
@pytest.mark.slow
def test_a_claims_commands_train_what_it_needs_and_nothing_else(claim):
    commands = [command.replace("seed=0,1,2,3,4", "seed=0,1,2") for command in missing(claim, FinishedRuns([]))]
    jobs = [job for command in commands for job in command_jobs(shlex.split(command)[3:])]
    for job in jobs:
        check(job.config, job.overrides)
    trained = [RunRecord(Path(), flatten(job.config), {}, {}, "done") for job in jobs]
    needed = [cell for part in claim.parts for cell in part.needs()]
    assert {run.config["study"] for run in trained} == {claim.study}
    finished = FinishedRuns(trained)
    for cell in needed:
        assert [run.seed for run in finished.fitting(cell)] == [0, 1, 2], cell
    assert {id(run) for cell in needed for run in finished.fitting(cell)} == set(map(id, trained))


@pytest.mark.parametrize("argument", ["seed=range(0,0)", "lr=glob(*)"])
def test_a_sweep_over_nothing_is_refused(argument):
    with pytest.raises(InputError, match=re.escape(argument) + ": no values|list the values"):
        command_jobs([argument])
