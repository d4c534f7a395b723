"""Hydra's own part of the configuration: the launcher, and the folders it works in."""

from importlib.util import find_spec
from shutil import which
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vitbn.errors import InputError

# launchers that extras bring: a module that is there when the extra is, and the extra's name
LAUNCHER_EXTRAS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "ray": ("ray", "ray"),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "slurm_local": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
}


# where Hydra puts a run: a run's folder is named by its content, and relative paths are of the folder where one types
HYDRA_FOLDERS = {
    "run.dir": "${runs}/${study:}/${run_id:}",
    "sweep.dir": "${runs}/${study:}",
    "sweep.subdir": "${run_id:}",
    "job.chdir": False,
}


def check_hydra(hydra: DictConfig) -> None:
    """InputError if Hydra's own part of the configuration moves runs, or names a launcher that is not there."""
    tree: Any = OmegaConf.to_container(hydra, resolve=False)
    for key, expected in HYDRA_FOLDERS.items():
        group, _, name = key.partition(".")
        if (value := tree[group][name]) != expected:
            remedy = "runs= and study= say where; leave it out"
            raise InputError(f"hydra.{key}={value}: a run's folder is named by its configuration, {remedy}")
    check_launcher(hydra.runtime.choices["hydra/launcher"])


def check_launcher(name: str) -> None:
    """InputError if the launcher comes with an extra that is not installed, or submits to a Slurm that is not there."""
    module, extra = LAUNCHER_EXTRAS.get(name, ("hydra", ""))
    if find_spec(module) is None:
        raise InputError(f"hydra/launcher={name}: needs a package that is not installed; pip install -e '.[{extra}]'")
    if name in ("slurm", "submitit_slurm") and which("srun") is None:
        raise InputError(f"hydra/launcher={name}: no srun here; type it on a machine of a Slurm cluster")
