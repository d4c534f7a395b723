import pytest

from vitbn.config import launch
from vitbn.errors import InputError


@pytest.mark.parametrize(
    ("name", "extra"),
    [("joblib", "joblib"), ("slurm_local", "submitit"), ("submitit_slurm", "submitit"), ("ray", "ray")],
)
def test_the_extra_of_a_launcher_is_named(name, extra, monkeypatch):
    monkeypatch.setattr(launch, "find_spec", lambda module: module if module == "hydra" else None)
    with pytest.raises(InputError, match=rf"hydra/launcher={name}: needs a package .*\[{extra}\]"):
        launch.check_launcher(name)
    launch.check_launcher("basic")


def test_slurm_needs_srun(monkeypatch):
    monkeypatch.setattr(launch, "find_spec", lambda module: module)
    monkeypatch.setattr(launch, "which", lambda program: None)
    with pytest.raises(InputError, match="hydra/launcher=slurm: no srun here"):
        launch.check_launcher("slurm")
