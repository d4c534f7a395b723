"""The data of one run: which images train, which validate, which test."""

from functools import cached_property
from pathlib import Path

import pytorch_lightning as pl
import torch

from vitbn import keyed
from vitbn.data.augment import Draws, draw
from vitbn.data.batches import FixedBatches, Pixels, TrainBatches
from vitbn.data.sources import Source, Split, hold_out, load

# Optimizer steps per Lightning step: on a GPU Lightning's own milliseconds would cost more than the steps. On a CPU
# they do not, and a signal is answered after every step.
CHUNK = {"cuda": 100}


class ImageData(pl.LightningDataModule):
    """`val/*` on the official test images under one fixed augmentation draw, or on `holdout` training images.

    `test/*` on the clean official test images. The validation draw and the held-out images are the same for
    every run of every model.
    """

    def __init__(
        self,
        *,
        name: str,
        root: str,
        augment: bool,
        mean: float,
        std: float,
        holdout: int,
        batch_size: int,
        val_batch_size: int,
        seed: int,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.source_name, self.root, self.augment, self.holdout = name, Path(root), augment, holdout
        self.pixels = Pixels(mean, std)
        self.batch_size, self.val_batch_size, self.seed, self.chunk = batch_size, val_batch_size, seed, chunk

    @cached_property
    def source(self) -> Source:
        return load(self.source_name, self.root)

    @cached_property
    def splits(self) -> tuple[Split, Split]:
        """Training and validation images."""
        train, test = self.source.train, self.source.test
        return hold_out(train, self.holdout, self.source_name) if self.holdout else (train, test)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    def setup(self, stage: str) -> None:
        """Read the files, so that a bad one is named before training starts."""
        _ = self.splits

    def train_dataloader(self) -> TrainBatches:
        return TrainBatches(
            self.splits[0], batch_size=self.batch_size, seed=self.seed, augmented=self.augment,
            device=self._device, chunk=self.state_dict()["chunk"], pixels=self.pixels,
        )  # fmt: skip

    def state_dict(self) -> dict[str, int]:
        """How many batches are handed out together: Lightning counts these chunks, so a resumed run keeps them."""
        return {"chunk": self.chunk or CHUNK.get(self._device.type, 1)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.chunk = state_dict["chunk"]

    def val_dataloader(self) -> FixedBatches:
        return self._fixed(self.splits[1], self.validation_draws())

    def test_dataloader(self) -> FixedBatches:
        return self._fixed(self.source.test, None)

    def _fixed(self, split: Split, draws: Draws | None) -> FixedBatches:
        return FixedBatches(split, batch_size=self.val_batch_size, draws=draws, device=self._device, pixels=self.pixels)

    def validation_draws(self) -> Draws | None:
        """The one draw under which the validation images are augmented."""
        if not self.augment:
            return None
        split = self.splits[1]
        return draw(len(split), split.images.shape[-1], keyed.generator("validation", self.source_name, len(split)))

    @property
    def _device(self) -> torch.device:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        # Apple's GPUs have no float64, which exact augmentation needs; Lightning moves the batches there
        return torch.device("cpu") if device.type == "mps" else device
