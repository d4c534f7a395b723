from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from vitbench import baselines
from vitbench.baselines import LightningDefaults, PlainLoop, best_workers
from vitbench.flops import parameter_count
from vitbench.runner import Stopwatch, Turn

from tests.conftest import TINY
from vitbn import ViT, rng
from vitbn.data.splits import Split
from vitbn.models.init import initialize

pytestmark = pytest.mark.slow

LOOP = {"batch_size": 20, "val_batch_size": 50, "lr": 0.003, "device": torch.device("cpu")}
SIZE = {key: TINY[key] for key in TINY if key not in ("pool", "dropout", "emb_dropout", "pos_emb")}


def vit(seed):
    net = ViT(**TINY)
    initialize(net, seed)
    return net


def other(make):
    return lambda seed: make(SIZE)


def test_the_plain_loop_is_adam_on_the_transformed_pictures(source, watch, monkeypatch):
    """Against the same steps written down once more."""
    monkeypatch.setattr(baselines, "article_transform", lambda side: lambda p: torch.tensor(np.array(p))[None] / 255)
    turn = PlainLoop(source, vit, **LOOP).turn(3, watch)
    torch.manual_seed(rng.key("bench", 3))
    net = vit(3)
    order = list(torch.utils.data.DataLoader(range(40), batch_size=None, shuffle=True))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
    pictures, losses = source.train.images / 255, []
    for rows in (order[:20], order[20:]):
        loss = F.cross_entropy(net(pictures[rows]), source.train.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert turn.figures["train/loss"] == pytest.approx(sum(losses) / 2, rel=1e-4)
    logits = net.eval()(source.test.images / 255)
    assert turn.figures["val/loss"] == pytest.approx(F.cross_entropy(logits, source.test.labels).item(), rel=1e-3)
    assert turn.figures["val/acc"] == (logits.argmax(1) == source.test.labels).float().mean() and turn.units == 1


@pytest.mark.parametrize("new_net", [vit, other(baselines.vit_pytorch), other(baselines.timm)])
@pytest.mark.parametrize("make", [PlainLoop, partial(PlainLoop, fused=True), LightningDefaults])
@pytest.mark.slow
def test_every_loop_trains_every_network(source, watch, make, new_net):
    figures = make(source, new_net, **LOOP).turn(0, watch).figures
    assert list(figures) == ["train/loss", "val/loss", "val/acc"] and figures["val/acc"] in (0, 1)
    assert 0.5 < figures["train/loss"] < 10 and np.isfinite(figures["val/loss"])


def test_workers_give_the_same_images(source):
    torch.manual_seed(0)
    alone = next(iter(baselines.loader(source.train, 40)))
    assert alone[0].shape == (40, 1, 28, 28) and torch.equal(alone[1], source.train.labels)
    one = next(iter(baselines.loader(source.train, 40, workers=1)))
    assert torch.equal(one[1], alone[1]) and one[0].dtype == torch.float32 and 0 <= one[0].min() <= one[0].max() <= 1


def test_pictures_are_handed_out_as_torchvision_does(source):
    image, label = baselines.PictureData(source.train, lambda picture: picture)[11]
    assert isinstance(image, Image.Image) and image.mode == "L" and label == 1
    assert np.array_equal(np.array(image), source.train.images[11, 0].numpy())
    colours = Split(torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8), torch.tensor([0]))
    image, _ = baselines.PictureData(colours, lambda picture: picture)[0]
    assert image.mode == "RGB" and np.array_equal(np.array(image), colours.images[0].permute(1, 2, 0).numpy())


def test_the_best_number_of_workers_is_the_fastest_after_a_warm_up(clock, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    seconds, tried = {0: [9, 3], 1: [2], 2: [4]}, []

    class Loop:
        def __init__(self, workers):
            self.workers = workers

        def turn(self, number, watch):
            tried.append(self.workers)
            with watch:
                clock.now += seconds[self.workers].pop(0)
            return Turn()

    assert best_workers(Loop, lambda: Stopwatch(lambda: None, clock)) == 1
    assert tried == [0, 0, 1, 2]


@pytest.mark.parametrize("wide_heads", [True, False])
def test_timm_has_the_size_that_is_said(wide_heads):
    net = baselines.timm(SIZE, wide_heads=wide_heads)
    attention = net.blocks[0].attn
    assert (attention.num_heads, attention.head_dim) == (2, 8 if wide_heads else 8)
    wider = baselines.timm({**SIZE, "dim_head": 20}, wide_heads=wide_heads)
    assert wider.blocks[0].attn.head_dim == (20 if wide_heads else 8)
    assert net(torch.rand(2, 1, 28, 28)).shape == (2, 10) and len(net.blocks) == 2


def test_the_others_are_as_large_as_ours():
    article = {**SIZE, "dim": 64, "depth": 6, "heads": 8, "dim_head": 64, "mlp_dim": 128}
    assert parameter_count(baselines.vit_pytorch(article)) == parameter_count(ViT(**article)) == 893_164
    assert (
        parameter_count(baselines.timm(article)) == 893_164 - 2 * 49 - 2 * 64 - 0
    )  # no norms around its patch embedding
    assert parameter_count(baselines.timm(article, wide_heads=False)) < 893_164 / 4
