"""Epochs of training as people write them: a loop by hand, and Lightning as it comes out of the box."""

import os
import tempfile
from collections.abc import Callable
from functools import partial

import pytorch_lightning as pl
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader

from vitbench.others import loader
from vitbench.runner import Stopwatch, Turn
from vitbn import rng as keyed
from vitbn.data.splits import Source

NewNet = Callable[[int], nn.Module]  # with the initial weights of that seed
WORKERS = (0, 1, 2, 4, 8, 16)


class PlainLoop:
    """Epochs of the article's loop: per-image transforms, DataLoader, Adam, validation under the same transforms."""

    def __init__(
        self,
        source: Source,
        new_net: NewNet,
        *,
        batch_size: int,
        val_batch_size: int,
        lr: float,
        device: torch.device,
        workers: int = 0,
        fused: bool = False,
    ) -> None:
        self.source, self.new_net, self.device, self.workers = source, new_net, device, workers
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.optimizer = partial(optim.Adam, lr=lr, fused=fused)

    def turn(self, number: int, watch: Stopwatch) -> Turn:
        """A fresh network trained for one epoch and validated."""
        # what weights, order and transforms are drawn from
        torch.manual_seed(keyed.key("bench", number))
        net = self.new_net(number).to(self.device)
        optimizer = self.optimizer(net.parameters())
        train = loader(self.source.train, self.batch_size, shuffle=True, workers=self.workers)
        validation = loader(self.source.test, self.val_batch_size, workers=self.workers)
        with watch:
            train_loss = self._train(net, optimizer, train)
            val_loss, accuracy = self._validate(net, validation)
        return Turn(figures={"train/loss": train_loss, "val/loss": val_loss, "val/acc": accuracy})

    def _train(self, net: nn.Module, optimizer: optim.Optimizer, batches: DataLoader) -> float:
        net.train()
        total, count = torch.zeros((), device=self.device), 0
        for images, labels in batches:
            images, labels = images.to(self.device), labels.to(self.device)
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(labels)
            count += len(labels)
        return total.item() / count

    @torch.no_grad()
    def _validate(self, net: nn.Module, batches: DataLoader) -> tuple[float, float]:
        net.eval()
        loss, right, count = 0.0, 0, 0
        for images, labels in batches:
            images, labels = images.to(self.device), labels.to(self.device)
            logits = net(images)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(1) == labels).sum())
            count += len(labels)
        return loss / count, right / count


def best_workers(loop: Callable[[int], PlainLoop], new_watch: Callable[[], Stopwatch]) -> int:
    """The number of workers whose `loop`, over few images, took the least time; more than 2 only with more cores."""

    def seconds(workers: int) -> float:
        watch = new_watch()
        loop(workers).turn(0, watch)
        return watch.seconds

    seconds(0)  # warms up
    return min([n for n in WORKERS if n <= max(2, os.cpu_count() or 1)], key=seconds)


class LightningDefaults:
    """Epochs of a LightningModule as its documentation shows it, with the Trainer's defaults and a DataLoader."""

    def __init__(
        self,
        source: Source,
        new_net: NewNet,
        *,
        batch_size: int,
        val_batch_size: int,
        lr: float,
        device: torch.device,
    ) -> None:
        self.source, self.new_net, self.device, self.lr = source, new_net, device, lr
        self.batch_size, self.val_batch_size = batch_size, val_batch_size

    def turn(self, number: int, watch: Stopwatch) -> Turn:
        """A fresh network and Trainer for one epoch; without bar and summary, which would garble the terminal."""
        torch.manual_seed(keyed.key("bench", number))
        module = UsualModule(self.new_net(number), self.lr)
        train = loader(self.source.train, self.batch_size, shuffle=True)
        validation = loader(self.source.test, self.val_batch_size)
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                max_epochs=1, accelerator="gpu" if self.device.type == "cuda" else "cpu", devices=1,
                default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
            )  # fmt: skip
            with watch:
                trainer.fit(module, train, validation)
        measured = trainer.callback_metrics
        names = {"train/loss": "train_loss", "val/loss": "val_loss", "val/acc": "val_acc"}
        return Turn(figures={name: measured[key].item() for name, key in names.items()})


class UsualModule(pl.LightningModule):
    """What a tutorial would write."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__()
        self.net, self.lr = net, lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self.net(images), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self.net(images)
        self.log("val_loss", F.cross_entropy(logits, labels))
        self.log("val_acc", (logits.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> optim.Optimizer:
        return optim.Adam(self.parameters(), lr=self.lr)
