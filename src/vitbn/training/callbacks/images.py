"""Images in TensorBoard: augmented training images and the test confusion."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger

from vitbn.errors import describe
from vitbn.terminal import printable
from vitbn.training.module import Classifier

log = logging.getLogger("vitbn")


class TensorBoardImages(Callback):
    """The first 64 training images as the network sees them, and the confusion matrix of the test images."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == batch_idx == 0:
            from torchvision.utils import make_grid

            grid = make_grid(batch.images[:64], nrow=8, padding=1, pad_value=0.5)
            with _no_harm("augmented training images"):
                for logger in tensorboards(trainer):
                    logger.experiment.add_image("augmented training images", grid)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        counts, classes = cast(Classifier, pl_module).confusion.compute().cpu(), cast(Any, trainer).datamodule.classes
        with _no_harm("test confusion"):
            for logger in tensorboards(trainer):
                figure = confusion_figure(counts, classes)
                logger.experiment.add_figure("test confusion", figure, trainer.global_step)


def tensorboards(trainer: pl.Trainer) -> list[TensorBoardLogger]:
    """Those of the run's loggers that take images."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


@contextmanager
def _no_harm(picture: str) -> Iterator[None]:
    """A picture that cannot be drawn or written is a warning."""
    try:
        yield
    except Exception as error:
        log.warning(f"{picture}: no picture in TensorBoard: {describe(error)}")


def confusion_figure(counts: torch.Tensor, classes: tuple[str, ...]) -> Any:
    """Counts (true, predicted) as a matplotlib figure, shaded by the share of the true class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axes = figure.add_subplot()
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(classes)), yticks=range(len(classes)))
    names = [printable(name) for name in classes]
    axes.set_xticklabels(names, rotation=90 if max(map(len, names)) > 2 else 0, parse_math=False)
    axes.set_yticklabels(names, parse_math=False)
    for i, j in counts.nonzero().tolist():
        color = "white" if share[i, j] > 0.6 else "black"
        axes.text(j, i, str(int(counts[i, j])), ha="center", va="center", fontsize=7, color=color)
    return figure
