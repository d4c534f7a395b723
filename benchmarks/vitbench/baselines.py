"""What people would use instead: vit-pytorch's and timm's ViT, torchvision's transforms per image, a DataLoader, a
training loop by hand, and Lightning as it comes out of the box."""

import os
import tempfile
from collections.abc import Callable
from functools import partial, partialmethod
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from vitbench.runner import Stopwatch, Turn
from vitbn import rng
from vitbn.data.affine import MAX_ANGLE, MAX_SHIFT, MAX_ZOOM, MIN_ZOOM, ZOOM_PROBABILITY
from vitbn.data.splits import Source, Split
from vitbn.errors import InputError

Transform = Callable[[Image.Image], Tensor]
NewNet = Callable[[int], nn.Module]  # with the initial weights of that seed
WORKERS = (0, 1, 2, 4, 8, 16)


def vit_pytorch(size: dict[str, Any]) -> nn.Module:
    """vit-pytorch's ViT of that size: the same function as ours, in the usual formulation."""
    try:
        from vit_pytorch import ViT
    except ImportError:
        raise _missing("vit-pytorch") from None
    return ViT(**size)


def timm(size: dict[str, Any], *, wide_heads: bool = True) -> nn.Module:
    """timm's VisionTransformer of that size; its own heads are dim // heads wide unless `wide_heads`."""
    try:
        from timm.layers.attention import Attention as TimmAttention
        from timm.models.vision_transformer import VisionTransformer
    except ImportError:
        raise _missing("timm") from None

    class WideHeads(TimmAttention):  # timm wants a class here and no partial
        __init__ = partialmethod(TimmAttention.__init__, attn_head_dim=size["dim_head"])

    return VisionTransformer(
        img_size=size["image_size"], patch_size=size["patch_size"], in_chans=size["channels"],
        num_classes=size["num_classes"], embed_dim=size["dim"], depth=size["depth"], num_heads=size["heads"],
        mlp_ratio=size["mlp_dim"] / size["dim"], qkv_bias=False,
        attn_layer=WideHeads if wide_heads else TimmAttention,
    )  # fmt: skip


def _missing(package: str) -> InputError:
    return InputError(f"bench.py compares with {package}, which is not installed: pip install -e '.[bench]'")


def article_transform(side: int) -> Transform:
    """The article's augmentation as torchvision offers it, for one PIL image."""
    return v2.Compose(
        [
            v2.RandomRotation(MAX_ANGLE),
            v2.RandomAffine(degrees=0, translate=(MAX_SHIFT, MAX_SHIFT)),
            v2.RandomZoomOut(0, (MIN_ZOOM, MAX_ZOOM), p=ZOOM_PROBABILITY),
            v2.Resize((side, side)),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


class PictureData(Dataset):
    """A split the way torchvision's MNIST hands it out: one PIL image at a time, transformed when asked for."""

    def __init__(self, split: Split, transform: Transform) -> None:
        self.split = split
        self.transform = transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self.split.images[index]
        picture = Image.fromarray(pixels.squeeze(0).numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())
        return self.transform(picture), int(self.split.labels[index])


def loader(split: Split, batch_size: int, *, shuffle: bool = False, workers: int = 0) -> DataLoader:
    """torch's DataLoader over the transformed pictures."""
    data = PictureData(split, article_transform(split.images.shape[-1]))
    pinned = torch.cuda.is_available()
    return DataLoader(data, batch_size, shuffle=shuffle, num_workers=workers, pin_memory=pinned and workers > 0)


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
        self.source = source
        self.new_net = new_net
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.device = device
        self.workers = workers
        self.optimizer = partial(optim.Adam, lr=lr, fused=fused)

    def turn(self, number: int, watch: Stopwatch) -> Turn:
        """A fresh network trained for one epoch and validated."""
        # weights, order and transforms are drawn from the global generator
        torch.manual_seed(rng.key("bench", number))
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
        self.source = source
        self.new_net = new_net
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.lr = lr
        self.device = device

    def turn(self, number: int, watch: Stopwatch) -> Turn:
        """A fresh network and Trainer for one epoch; without bar and summary, which would garble the terminal."""
        torch.manual_seed(rng.key("bench", number))
        module = TutorialModule(self.new_net(number), self.lr)
        train = loader(self.source.train, self.batch_size, shuffle=True)
        validation = loader(self.source.test, self.val_batch_size)
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                max_epochs=1, accelerator="gpu" if self.device.type == "cuda" else "cpu", devices=1,
                default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
            )  # fmt: skip
            with watch:
                trainer.fit(module, train, validation)
        metrics = trainer.callback_metrics
        names = {"train/loss": "train_loss", "val/loss": "val_loss", "val/acc": "val_acc"}
        return Turn(figures={name: metrics[key].item() for name, key in names.items()})


class TutorialModule(pl.LightningModule):
    """What a tutorial would write."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__()
        self.net = net
        self.lr = lr

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
