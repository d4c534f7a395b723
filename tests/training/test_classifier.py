import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from tests.conftest import TINY
from vitbn import ViT
from vitbn.data.batches import Batch
from vitbn.models.dropout import Dropout
from vitbn.models.factory import build, make_optimizer
from vitbn.training.module import Classifier


def classifier(**changes):
    net = build({"name": "vit", "_target_": "vitbn.ViT", **TINY, **changes}, seed=0)
    optimizer = make_optimizer({"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.01, "fused": True})
    return Classifier(net, num_classes=10, optimizer=optimizer, seed=0)


def test_metrics_are_those_of_all_samples_together():
    """Against one batch: unequal batches must be weighted by their size."""
    module = classifier().eval()
    images, labels = torch.rand(70, 1, 28, 28), torch.arange(70) % 10
    with torch.no_grad():
        for rows in (slice(0, 50), slice(50, 70)):
            batch = Batch(images[rows], labels[rows], len(labels[rows]))
            module.validation_step(batch, 0)
            module.test_step(batch, 0)
        logits = module(images)
    values = module.values("val")
    torch.testing.assert_close(values["val/loss"], F.cross_entropy(logits, labels))
    torch.testing.assert_close(values["val/acc"], (logits.argmax(1) == labels).float().mean())
    counts = torch.zeros(10, 10, dtype=torch.long)
    for true, predicted in zip(labels, logits.argmax(1), strict=True):
        counts[true, predicted] += 1
    assert torch.equal(module.confusion.compute(), counts)


class Losses(pl.Callback):
    """Collects the loss of every optimizer step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.seen += outputs["loss"].tolist()
        assert trainer.global_step == len(self.seen)


@pytest.mark.parametrize("chunk", [1, 3, 20])
def test_a_chunk_is_its_batches_one_after_the_other(chunk, tmp_path):
    """Against torch's own Adam on the cross-entropy, step by step."""
    module, twin = classifier(), ViT(**TINY)
    twin.load_state_dict(module.net.state_dict())
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
    batches = [Batch(torch.rand(20, 1, 28, 28), torch.arange(20) % 10, 20) for _ in range(8)]
    chunks, collected = [batches[i : i + chunk] for i in range(0, 8, chunk)], Losses()
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[collected], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(chunks, batch_size=None))
    expected = []
    for images, labels, _ in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(twin(images), labels)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert collected.seen == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(sum(expected) / 8, rel=1e-4)


def test_dropout_masks_are_keyed_by_seed_step_and_layer(monkeypatch):
    first, again = classifier(dropout=0.5, emb_dropout=0.5), classifier(dropout=0.5, emb_dropout=0.5)
    layers = [m for m in first.net.modules() if isinstance(m, Dropout)]
    shape = torch.Size((4, 5))
    draws = [layer.draw(shape) for layer in layers]
    assert len(draws) == 1 + 2 * 4 and len({tuple(d.flatten().tolist()) for d in draws}) == len(draws)
    monkeypatch.setattr(Classifier, "global_step", 1)
    assert all(not torch.equal(layer.draw(shape), draw) for layer, draw in zip(layers, draws, strict=True))
    monkeypatch.setattr(Classifier, "global_step", 0)
    images = torch.rand(4, 1, 28, 28)
    out = first(images)
    torch.rand(99)  # other draws do not disturb the masks
    assert torch.equal(out, again(images)) and torch.equal(out, first(images))
    first.eval()
    again.eval()
    assert not torch.equal(out, first(images)) and torch.equal(first(images), again(images))
