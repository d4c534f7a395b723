"""`recalibrate_bn=true`: evaluation with precise BatchNorm statistics, training undisturbed."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from vitbn.data.datamodule import ImageData
from vitbn.models.bn_statistics import CALIBRATION_BATCH, CALIBRATION_IMAGES, BNStats, estimate_bn_stats, load_bn_stats
from vitbn.training.module import Classifier


class RecalibrateBatchNorm(Callback):
    """Before validation and test: statistics pooled over training images, augmented as in training's first epoch.

    They replace the running averages for the evaluation only, and depend on nothing but the weights. A checkpoint
    holds the running averages, from which training continues, and beside them, as this callback's state, what the
    last validation used; `load_network` takes those.
    """

    state_key = "recalibrate_bn"

    def __init__(self, data: ImageData) -> None:
        self.data = data
        self.used: BNStats = {}
        self._running: BNStats = {}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        net = cast(Classifier, pl_module).net
        with torch.inference_mode(False):  # what is kept beyond the evaluation must be ordinary tensors
            self.used = estimate_bn_stats(net, map(trainer.precision_plugin.convert_input, self._images()))
            self._running = load_bn_stats(net, self.used)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        load_bn_stats(cast(Classifier, pl_module).net, self._running)

    on_test_start, on_test_end = on_validation_start, on_validation_end

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.used = {}  # no statistics of the weights that this step makes

    def state_dict(self) -> dict[str, Any]:
        return {"used": {name: list(values) for name, values in self.used.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.used = {name: tuple(values) for name, values in state_dict["used"].items()}

    def _images(self) -> Iterator[Tensor]:
        loader = self.data.train_dataloader()
        loader.batch_size = min(CALIBRATION_BATCH, self.data.val_batch_size)
        loader.rank, loader.world = 0, 1  # every process measures the same images
        full_batches = min(CALIBRATION_IMAGES, len(self.data.splits[0])) // loader.batch_size
        return (batch.images for batch in islice(loader, max(1, full_batches)))
