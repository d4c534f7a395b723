"""Where the curves go: TensorBoard, CSV, MLflow or Weights & Biases, beside metrics.csv, which every run writes."""

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.tensorboard.summary import hparams

from vitbn.errors import InputError
from vitbn.store import atomic
from vitbn.store.run import Run


def make_logger(run: Run) -> Logger | None:
    """The logger a run asks for, with the hyperparameters logged; InputError if its package is not installed."""
    options = dict(run.config["logger"])
    name = options.pop("name")
    if name in ("mlflow", "wandb") and find_spec(name) is None:
        raise InputError(f"logger={name}: needs a package that is not installed; pip install -e '.[{name}]'")
    makers: dict[str, Callable[..., Logger]] = {"tensorboard": _tensorboard, "csv": _csv, "mlflow": _mlflow,
                                                "wandb": _wandb}  # fmt: skip
    return makers[name](run, **options) if name in makers else None


class EventFiles(TensorBoardLogger):
    """Event files straight in the run's folder, with the hyperparameters in the HParams tab."""

    def __init__(self, folder: Path, hyperparameters: dict[str, Any]) -> None:
        super().__init__(save_dir=folder, name="", version="", default_hp_metric=False)
        self.write_hparams(hyperparameters)

    @rank_zero_only
    def write_hparams(self, hyperparameters: dict[str, Any]) -> None:
        """Say which hyperparameters and metrics belong together, without adding points to the metrics' curves."""
        for summary in hparams(hyperparameters, {"val/acc": 0.0, "val/loss": 0.0, "test/acc": 0.0}):
            self.experiment.file_writer.add_summary(summary)

    def save(self) -> None:
        """Flush; Lightning's own hparams.yaml would say less than the run's config.yaml."""
        self.experiment.flush()


def _tensorboard(run: Run) -> EventFiles:
    return EventFiles(run.folder, run.labels)


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
    store = uri or f"sqlite:///{Path(run.config['runs']).resolve() / 'mlflow.db'}"
    logger = MLFlowLogger(run.config["study"], run_name=run.id, tracking_uri=store, run_id=known)
    logger.log_hyperparams(run.labels)
    if getattr(rank_zero_only, "rank", 0) == 0:  # Lightning keeps it there
        atomic.write_text(record, f"{logger.run_id}\n")
    return logger


def _wandb(run: Run, project: str, offline: bool) -> WandbLogger:
    known = None if run.config["rerun"] else run.id  # a run trained again must not continue its old curves
    logger = WandbLogger(
        project=project, name=run.id, id=known, group=run.config["study"], resume="allow", offline=offline,
        save_dir=run.folder,
    )  # fmt: skip
    logger.log_hyperparams(run.labels)
    return logger
