"""What is fast trains like what is simple: 200 steps of every network, held against the plainest loop."""

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from tests.conftest import TINY
from vitbn.data.batches import Batch
from vitbn.models.factory import build
from vitbn.models.placements import PLACEMENTS
from vitbn.models.vit import VisionTransformer
from vitbn.training.module import Classifier

SIZE = {"image_size": 28, "channels": 1, "num_classes": 10}
NARROW = {**TINY, "dim": 8, "dim_head": 8}
NETWORKS = {
    **{name: {"_target_": f"vitbn.{name}", **NARROW} for name in ("ViT", "ViTBNFFN", "ViTBN")},
    "ViTBN scalar": {"_target_": "vitbn.ViTBN", **NARROW, "placement": PLACEMENTS["vitbn_scalar"]},
    "ViT mean": {"_target_": "vitbn.ViT", **TINY, "pool": "mean"},
    "DNN": {"_target_": "vitbn.models.mlp.MLP", **SIZE, "hidden": [20, 20], "activation": "sigmoid", "norm": "none"},
    "MLP + BN": {"_target_": "vitbn.models.mlp.MLP", **SIZE, "hidden": [20], "activation": "relu", "norm": "batch"},
    "ResNet34": {"_target_": "vitbn.models.published.resnet34", **SIZE},
}
STEPS = {"ResNet34": 3}  # enough for its size; the others train 200
BATCHES = [Batch(torch.rand(8, 1, 28, 28, dtype=torch.float64), (torch.arange(8) + i) % 10, 8) for i in range(200)]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def batches(name, device):
    chosen = BATCHES[: STEPS.get(name, 200)]
    return [Batch(images.to(device), labels.to(device), total) for images, labels, total in chosen]


class Losses(pl.Callback):
    """The loss of every step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.seen += outputs["loss"].tolist()


def fast(net, given, folder, device):
    """As train.py does it: fused Adam, chunks of steps, the merged attention, a narrow last block, CUDA graphs."""
    losses = Losses()
    module = Classifier(net, num_classes=10, optimizer=lambda p: torch.optim.Adam(p, lr=0.003, fused=True), seed=0)
    trainer = pl.Trainer(
        max_epochs=1, accelerator=device, devices=1, logger=False, enable_checkpointing=False, callbacks=[losses],
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, precision="64-true",
    )  # fmt: skip
    chunks = [given[i : i + 32] for i in range(0, len(given), 32)]
    trainer.fit(module, torch.utils.data.DataLoader(chunks, batch_size=None))
    assert (module.captured is not None) == (device == "cuda")
    return losses.seen


def simple(net, given):
    """Every token computed, keys and values written out, Adam parameter by parameter."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003, foreach=False)
    losses = []
    for images, labels, _ in given:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NETWORKS)
def test_200_steps_on_the_fast_path_are_those_of_the_simple_one(name, device, tmp_path, monkeypatch):
    config = {"name": name, **NETWORKS[name]}
    given = batches(name, device)
    found = fast(build(config, seed=0), given, tmp_path, device)
    net = build(config, seed=0).double().to(device)
    for block in getattr(net, "blocks", []):
        assert block.attention.takes_merged(torch.empty(8, 17, block.attention.dim)) == ("mean" not in name)
        block.attention.route = "standard"
    monkeypatch.setattr(VisionTransformer, "_rows_read", lambda self: None)
    assert len(found) == len(given) and found[-1] != found[0]
    assert found == pytest.approx(simple(net, given), rel=1e-8)
