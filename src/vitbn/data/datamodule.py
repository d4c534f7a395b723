"""The data of one run: which images train, which validate, which test."""

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
import torch

from vitbn import rng
from vitbn.data import affine
from vitbn.data.batches import AUGMENTATIONS, FixedBatches, Preprocess, TrainBatches
from vitbn.data.files import as_text, local_folder
from vitbn.data.sources import load
from vitbn.data.splits import Source, Split, hold_out
from vitbn.errors import InputError

log = logging.getLogger("vitbn")


class ImageData(pl.LightningDataModule):
    """`val/*` on the validation images, where a source has none on the test images, or on `holdout` training images.

    `holdout` is a number of images, or below 1 a share of them.

    `test/*` on the clean test images, or again on the validation images where a source has no others. Under the
    article's augmentation the validation images are augmented too, by one fixed draw. That draw and the held-out
    images are the same for every run of every model. `options`: further keys of `data`, for the source that has a use.
    """

    def __init__(
        self,
        *,
        name: str,
        root: str,
        augment: bool | str,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        holdout: float,
        batch_size: int,
        val_batch_size: int,
        seed: int,
        source: str | None = None,
        image_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        mean, std = (tuple(value) if isinstance(value, Sequence) else value for value in (mean, std))
        self.data_name = name
        self.source_name = source or name
        self.root = local_folder(root)
        self.options = options
        self.augment = augment
        self.holdout = holdout
        self.preprocess = Preprocess(mean, std, image_size)
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.seed = seed

    @classmethod
    def of(cls, config: dict[str, Any]) -> "ImageData":
        """The data of a run's configuration."""
        return cls(**config["data"] | {key: config[key] for key in ("batch_size", "val_batch_size", "seed")})

    @cached_property
    def source(self) -> Source:
        return load(self.source_name, self.root, **self.options)

    @cached_property
    def splits(self) -> tuple[Split, Split]:
        """Training and validation images; says in one line what they are."""
        train, val = self._split(self.source)
        log.info(self._described(len(train), len(val)))
        return train, val

    def _split(self, source: Source) -> tuple[Split, Split]:
        if self.holdout and source.val is None:
            return hold_out(source.train, self.holdout, self.data_name)
        val = source.test if source.val is None else source.val
        if self.holdout or not len(val):
            problem = "has its own to validate on" if self.holdout else "has none to validate on"
            raise InputError(f"data.holdout={self.holdout}: {self.root} {problem}")
        return source.train, val

    def _described(self, train: int, val: int) -> str:
        source = self.source
        name = as_text(self.root.resolve().name) if self.source_name == "folder" else self.data_name
        parts = [f"{len(source.classes)} classes", f"{train:,} train"]
        if self.holdout or source.val is not None:
            parts.append(f"{val:,} validation{' (held out)' if self.holdout else ''}")
        if len(source.test):
            parts.append(f"{len(source.test):,} test" + ("" if len(parts) > 2 else " (and validation)"))
        passed_over = f"; passed over {source.passed_over}" if source.passed_over else ""
        return f"{name}: {', '.join(parts)}{passed_over}"

    @property
    def test(self) -> Split:
        """The source's test images, or else the validation images."""
        return self.source.test if len(self.source.test) else self.splits[1]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.splits[0]) // self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Goes into every checkpoint: what the outputs mean."""
        return {"classes": list(self.classes)}

    def setup(self, stage: str) -> None:
        """Read the files, so that a bad one is named before training starts."""
        _ = self.splits

    def train_dataloader(self) -> TrainBatches:
        return TrainBatches(
            self.splits[0], batch_size=self.batch_size, seed=self.seed, draw=AUGMENTATIONS[self.augment],
            device=self._device, preprocess=self.preprocess, **self._process,
            same_order=getattr(self.trainer, "overfit_batches", 0) > 0,
        )  # fmt: skip

    def val_dataloader(self) -> FixedBatches:
        return self._fixed(self.splits[1], self.validation_draws())

    def test_dataloader(self) -> FixedBatches:
        return self._fixed(self.test, None)

    def _fixed(self, split: Split, draws: affine.AffineDraws | None) -> FixedBatches:
        return FixedBatches(
            split,
            batch_size=self.val_batch_size,
            draws=draws,
            device=self._device,
            preprocess=self.preprocess,
            **self._process,
        )

    def validation_draws(self) -> affine.AffineDraws | None:
        """The one draw under which the article's validation images are augmented."""
        if self.augment is not True:
            return None
        split = self.splits[1]
        return affine.draw(len(split), split.stored.shape[-1], rng.generator("validation", self.data_name, len(split)))

    @property
    def _process(self) -> dict[str, int]:
        """Which of how many processes this is."""
        return {"rank": self.trainer.global_rank, "world": self.trainer.world_size} if self.trainer else {}

    @property
    def _device(self) -> torch.device:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        # Apple's GPUs have no float64, which exact augmentation needs; Lightning moves the batches there
        return torch.device("cpu") if device.type == "mps" else device
