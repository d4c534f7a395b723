"""`hydra/launcher=ray`: the jobs of a sweep as tasks of a Ray cluster.

hydra-ray-launcher does the same and more, but asks for a cloudpickle below 3, which joblib and with it scikit-learn
no longer accept.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from vitbn.errors import InputError

log = logging.getLogger(__name__)
FORWARDED = ("VITBN_DATA", "OMP_NUM_THREADS")  # variables that workers on other machines would not have


class RayLauncher(Launcher):
    """Every job gets `num_cpus` cores and `num_gpus` GPUs, fractions allowed, of the cluster at `address`.

    Without an address: of the cluster this machine belongs to, or of one made for the sweep. `max_retries`: how often
    Ray starts a job again whose process died; it resumes.
    """

    def __init__(self, num_cpus: float, num_gpus: float, max_retries: int, address: str | None) -> None:
        self.resources = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_retries": max_retries}
        self.address = address

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        import ray

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        if not ray.is_initialized():
            self._connect(ray)
        run = ray.remote(**self.resources)(_run)
        submitted = []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            log.info(f"\t#{number} : {' '.join(filter_overrides(overrides))}")
            job = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(job):
                job.hydra.job.id = job.hydra.job.num = number
            submitted.append((job, run.remote(self.hydra_context, self.task_function, job, Singleton.get_state())))
        return [self._outcome(ray, job, reference) for job, reference in submitted]

    def _connect(self, ray: Any) -> None:
        forwarded = {name: os.environ[name] for name in FORWARDED if name in os.environ}
        try:
            ray.init(address=self.address or "auto", runtime_env={"env_vars": forwarded})
        except ConnectionError:
            if self.address:
                raise InputError(f"hydra.launcher.address={self.address}: no Ray cluster answers there") from None
            ray.init(include_dashboard=False, runtime_env={"env_vars": forwarded})

    @staticmethod
    def _outcome(ray: Any, job: DictConfig, reference: Any) -> JobReturn:
        try:
            return ray.get(reference)
        except ray.exceptions.RayError as error:  # the process died, and again after every retry
            log.error(f"job {job.hydra.job.num}: {type(error).__name__}; the same command goes on from its checkpoint")
            config = OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"])
            outcome = JobReturn(cfg=config, overrides=list(job.hydra.overrides.task), status=JobStatus.FAILED)
            outcome.return_value = error
            return outcome


def _run(hydra_context: HydraContext, task_function: TaskFunction, job: DictConfig, state: Any) -> JobReturn:
    setup_globals()
    Singleton.set_state(state)
    os.chdir(job.hydra.runtime.cwd)  # a worker starts where Ray was started; `runs` is relative to where the sweep was
    return run_job(
        task_function=task_function,
        config=job,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=hydra_context,
    )
