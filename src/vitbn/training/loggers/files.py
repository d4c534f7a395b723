"""Lightning's loggers that write files, in the run's folder."""

from argparse import Namespace
from typing import Any

from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.tensorboard.summary import hparams

from vitbn.store.run import Run


class EventFiles(TensorBoardLogger):
    """Event files straight in the run's folder."""

    def __init__(self, run: Run, **options: Any) -> None:
        super().__init__(run.folder, name="", version="", default_hp_metric=False, **options)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        """For the HParams tab, which takes the metrics from their curves: Lightning's would add points to them."""
        values = params if isinstance(params, dict) else vars(params)
        for summary in hparams(values, {"val/acc": 0.0, "val/loss": 0.0, "test/acc": 0.0}):
            self.experiment.file_writer.add_summary(summary)

    @rank_zero_only
    def save(self) -> None:
        """Flush; Lightning's own hparams.yaml would say less than the run's config.yaml."""
        self.experiment.flush()


class CSV(CSVLogger):
    """Continues in another version of its folder: Lightning's would delete what it finds."""

    def __init__(self, run: Run, **options: Any) -> None:
        super().__init__(run.folder, name="csv", **options)
