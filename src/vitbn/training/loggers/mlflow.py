"""An MLflow run for a run of ours, also if it was interrupted: its ID stays in the run's folder."""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.utilities import rank_zero_only

from vitbn.errors import InputError
from vitbn.store import atomic
from vitbn.store.lock import locked
from vitbn.store.run import Run
from vitbn.training.loggers.guard import SECONDS, SECONDS_WITHOUT_SERVER, is_first_process


class MLflow(MLFlowLogger):
    """An experiment per study. `uri` is a tracking server or store; None: the file mlflow.db beside the studies."""

    seconds = SECONDS_WITHOUT_SERVER  # a local store is made once, and whoever starts meanwhile waits for it

    def __init__(self, run: Run, uri: str | None = None, **options: Any) -> None:
        for noise in ("mlflow", "alembic", "urllib3"):
            logging.getLogger(noise).setLevel(logging.ERROR)
        runs, study = Path(run.config["runs"]).resolve(), run.config["study"]
        uri = uri or f"sqlite:///{runs / 'mlflow.db'}"
        record = run.folder / "mlflow_run_id"
        known = None
        is_remote = uri.startswith("http")
        if is_remote:  # and while it is made, the environment limits each request
            self.seconds = SECONDS
        if is_first_process():
            with nullcontext() if is_remote else locked(runs / ".mlflow", wait=True):
                client = MlflowClient(uri)
                _require_experiment(client, study)
            known = _known_run(client, record)
        super().__init__(study, run_name=run.id, tracking_uri=uri, run_id=known, **options)
        if is_first_process():
            atomic.write_text(record, f"{self.run_id}\n")

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        """Those that the run has not yet: MLflow refuses others for one that goes on."""
        known = self.experiment.get_run(self.run_id).data.params
        super().log_hyperparams({key: value for key, value in params.items() if key not in known})


def _require_experiment(client: MlflowClient, name: str) -> None:
    """Make the experiment unless it is there; InputError if it is in the trash, where MLflow keeps its name."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            client.create_experiment(name)
        except MlflowException:  # another machine was faster
            if client.get_experiment_by_name(name) is None:
                raise
    elif experiment.lifecycle_stage == "deleted":
        restore = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        raise InputError(f"the experiment {name} is deleted; restore it ({restore}) or take another study=")


def _known_run(client: MlflowClient, record: Path) -> str | None:
    """The ID in the run's folder, if the store still has such a run."""
    if not record.exists():
        return None
    try:
        known: str = client.get_run(record.read_text().strip()).info.run_id
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return known
