"""Where the curves go: TensorBoard, CSV, MLflow or Weights & Biases, beside metrics.csv, which every run writes."""

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from vitbn.errors import InputError
from vitbn.store import atomic as durable
from vitbn.store.run import Run
from vitbn.training.callbacks.metrics import Events


def make_logger(run: Run) -> Logger | None:
    """The logger a run asks for, with its labels told; InputError if its package is not installed."""
    options = dict(run.config["logger"])
    name = options.pop("name")
    if name in ("mlflow", "wandb") and find_spec(name) is None:
        raise InputError(f"logger={name}: needs a package that is not installed; pip install -e '.[{name}]'")
    makers: dict[str, Callable[..., Logger]] = {"tensorboard": _tensorboard, "csv": _csv, "mlflow": _mlflow,
                                                "wandb": _wandb}  # fmt: skip
    return makers[name](run, **options) if name in makers else None


def _tensorboard(run: Run) -> Events:
    logger = Events(run.folder, run.labels)
    logger.announce()
    return logger


def _csv(run: Run) -> CSVLogger:
    """Continues in another version of its folder: Lightning's would delete what it finds."""
    logger = CSVLogger(run.folder, name="csv")
    logger.log_hyperparams(run.labels)
    return logger


def _mlflow(run: Run, uri: str | None) -> MLFlowLogger:
    """A run of MLflow for a run of ours, also if it was interrupted: its id stays in the run's folder."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    record = run.folder / "mlflow_run_id"
    known = record.read_text().strip() if record.exists() else None
    place = uri or f"sqlite:///{Path(run.config['runs']).resolve() / 'mlflow.db'}"
    logger = MLFlowLogger(run.config["study"], run_name=run.id, tracking_uri=place, run_id=known)
    logger.log_hyperparams(run.labels)
    if getattr(rank_zero_only, "rank", 0) == 0:  # Lightning keeps it there
        durable.write_text(record, f"{logger.run_id}\n")
    return logger


def _wandb(run: Run, project: str, offline: bool) -> WandbLogger:
    known = None if run.config["rerun"] else run.id  # what is trained again must not go on after the curves it had
    logger = WandbLogger(
        project=project, name=run.id, id=known, group=run.config["study"], resume="allow", offline=offline,
        save_dir=run.folder,
    )  # fmt: skip
    logger.log_hyperparams(run.labels)
    return logger
