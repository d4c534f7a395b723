"""`test_train_mode=true`: the test accuracy of a network left in training mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from vitbn import rng
from vitbn.data.batches import Batch
from vitbn.training.module import Classifier


class TrainModeAccuracy(Callback):
    """test/acc_train_mode: with dropout on and the statistics of each test batch, as some published loops test."""

    def __init__(self, num_classes: int) -> None:
        self.accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        classifier = cast(Classifier, pl_module)
        torch.manual_seed(rng.key(classifier.seed, "test step", batch_idx, trainer.global_rank))
        with trainer.precision_plugin.test_step_context(), training_mode(classifier.net):
            logits = classifier.net(batch.images)
        if len(batch.labels):
            self.accuracy.to(logits.device).update(logits, batch.labels)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("test/acc_train_mode", self.accuracy.compute())
        self.accuracy.reset()


@contextmanager
def training_mode(net: nn.Module) -> Iterator[None]:
    """Inside, the network is as it is while it trains; afterwards its running statistics are what they were."""
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    net.train()
    try:
        yield
    finally:
        net.eval()
        for buffer, value in buffers:
            buffer.copy_(value)
