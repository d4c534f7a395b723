"""One training epoch: this project against the loop people write by hand.

python benchmarks/epoch.py                       # whole epochs of MNIST at depth 6, alternating, about 15 minutes
python benchmarks/epoch.py --images 6000 --pairs 5

ours   TrainBatches -> Classifier -> Lightning's Trainer with every callback and TensorBoard, ViT of vitbn
plain  torchvision MNIST with the article's per-image PIL transforms -> DataLoader -> vit-pytorch's ViT -> Adam

Both on the same images, batch 100, float32, no compile, two threads. Prints each arm's seconds and the ratio
plain / ours pair by pair, and writes them with hardware and versions to benchmarks/results/epoch.json.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
import torchvision
from torch.nn import functional as F
from torchvision.transforms import v2
from vit_pytorch import ViT as PlainViT

from vitbn.data.augment import draw
from vitbn.data.batches import TrainBatches
from vitbn.data.sources import load
from vitbn.models.build import build
from vitbn.training import checkpoint, recording
from vitbn.training.classifier import Classifier
from vitbn.training.fingerprint import environment

SIZE = {
    "image_size": 28, "patch_size": 7, "num_classes": 10, "channels": 1, "dim": 64, "heads": 8, "dim_head": 64,
    "mlp_dim": 128,
}  # fmt: skip
CPU = torch.device("cpu")


class Ours:
    """The project's own way from files to trained weights, one call an epoch."""

    def __init__(self, root: Path, images: int, depth: int) -> None:
        split = load("mnist", root).train[torch.arange(images)]
        self.batches = TrainBatches(split, batch_size=100, seed=0, draw=draw, device=CPU)
        net = build({"name": "vit", "_target_": "vitbn.ViT", **SIZE, "depth": depth}, seed=0)
        optimizer = partial(torch.optim.Adam, lr=0.003, fused=True)
        self.classifier = Classifier(net, num_classes=10, optimizer=optimizer, seed=0)

    def epoch(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            logger = recording.Events(Path(folder), {})
            trainer = pl.Trainer(
                accelerator="cpu", max_epochs=1, logger=logger, num_sanity_val_steps=0, enable_model_summary=False,
                enable_progress_bar=False, plugins=[checkpoint.DurableCheckpointIO()], default_root_dir=folder,
                callbacks=[
                    recording.Pictures(logger, tuple("0123456789")),
                    *checkpoint.callbacks(Path(folder), every_minutes=10)[1:],
                ],
            )  # fmt: skip
            trainer.fit(self.classifier, self.batches)


class Plain:
    """The article's way, as its code blocks describe it."""

    def __init__(self, root: Path, images: int, depth: int) -> None:
        transform = v2.Compose(
            [
                v2.RandomRotation(degrees=20),
                v2.RandomAffine(degrees=0, translate=(0.2, 0.2)),
                v2.RandomZoomOut(0, (2.0, 3.0), p=0.2),
                v2.Resize((28, 28)),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )
        data = torchvision.datasets.MNIST(root, train=True, transform=transform)
        subset = torch.utils.data.Subset(data, range(images))
        self.loader = torch.utils.data.DataLoader(subset, batch_size=100, shuffle=True)
        self.net = PlainViT(**SIZE, depth=depth)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.003)

    def epoch(self) -> None:
        for images, labels in self.loader:
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.net(images), labels)
            loss.backward()
            self.optimizer.step()


def timed(arm: Ours | Plain) -> float:
    started = time.perf_counter()
    arm.epoch()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "epoch.json")
    args = parser.parse_args()
    torch.set_num_threads(2)
    root = Path(os.environ.get("VITBN_DATA", "data"))
    for arm in (Ours, Plain):  # warm-up on a few batches
        arm(root, 1000, args.depth).epoch()
    ours, plain = Ours(root, args.images, args.depth), Plain(root, args.images, args.depth)
    pairs = []
    for number in range(args.pairs):
        seconds = (timed(ours), timed(plain)) if number % 2 == 0 else (timed(plain), timed(ours))[::-1]
        pairs.append(seconds)
        print(
            f"ours {seconds[0]:6.1f} s   plain {seconds[1]:6.1f} s   plain/ours {seconds[1] / seconds[0]:.2f}",
            flush=True,
        )
    ratios = [b / a for a, b in pairs]
    result = {
        "what": f"one training epoch of {args.images} MNIST images, ViT depth {args.depth}, batch 100, float32",
        "n": len(pairs),
        "ours_seconds": [round(a, 2) for a, _ in pairs],
        "plain_seconds": [round(b, 2) for _, b in pairs],
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        **environment(CPU),
    }
    print(json.dumps(result["ratio"]))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
