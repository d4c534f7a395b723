from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from vitbench import others
from vitbench.baselines import LightningDefaults, PlainLoop, best_workers
from vitbench.ours import Ours
from vitbench.runner import Stopwatch, Turn

from tests.bench.conftest import SMALL
from tests.conftest import TINY
from vitbn import ViT
from vitbn import rng as keyed
from vitbn.data.splits import Source, Split
from vitbn.errors import InputError
from vitbn.models.init import initialize
from vitbn.training.callbacks.checkpoint import DurableCheckpointIO

LOOP = {"batch_size": 20, "val_batch_size": 50, "lr": 0.003, "device": torch.device("cpu")}
WORDS = ("data=mnist5k", "depth=1", "batch_size=20", "trainer=cpu", *SMALL)
SIZE = {key: TINY[key] for key in TINY if key not in ("pool", "dropout", "emb_dropout", "pos_emb")}


def vit(seed):
    net = ViT(**TINY)
    initialize(net, seed)
    return net


def other(make):
    return lambda seed: make(SIZE)


def test_the_plain_loop_is_adam_on_the_transformed_pictures(source, watch, monkeypatch):
    """Against the same steps written down once more."""
    monkeypatch.setattr(others, "article_transform", lambda side: lambda p: torch.tensor(np.array(p))[None] / 255)
    turn = PlainLoop(source, vit, **LOOP).turn(3, watch)
    torch.manual_seed(keyed.key("bench", 3))
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


@pytest.mark.parametrize("new_net", [vit, other(others.vit_pytorch), other(others.timm)])
@pytest.mark.parametrize("make", [PlainLoop, partial(PlainLoop, fused=True), LightningDefaults])
def test_every_loop_trains_every_network(source, watch, make, new_net):
    figures = make(source, new_net, **LOOP).turn(0, watch).figures
    assert list(figures) == ["train/loss", "val/loss", "val/acc"] and figures["val/acc"] in (0, 1)
    assert 0.5 < figures["train/loss"] < 10 and np.isfinite(figures["val/loss"])


def test_workers_give_the_same_images(source):
    torch.manual_seed(0)
    alone = next(iter(others.loader(source.train, 40)))
    assert alone[0].shape == (40, 1, 28, 28) and torch.equal(alone[1], source.train.labels)
    one = next(iter(others.loader(source.train, 40, workers=1)))
    assert torch.equal(one[1], alone[1]) and one[0].dtype == torch.float32 and 0 <= one[0].min() <= one[0].max() <= 1


def test_pictures_are_handed_out_as_torchvision_does(source):
    image, label = others.PictureData(source.train, lambda picture: picture)[11]
    assert isinstance(image, Image.Image) and image.mode == "L" and label == 1
    assert np.array_equal(np.array(image), source.train.images[11, 0].numpy())
    colours = Split(torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8), torch.tensor([0]))
    image, _ = others.PictureData(colours, lambda picture: picture)[0]
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


@pytest.fixture
def saved(monkeypatch):
    """Names of the checkpoints that were written."""
    names = []
    save = DurableCheckpointIO.save_checkpoint
    monkeypatch.setattr(
        DurableCheckpointIO, "save_checkpoint",
        lambda self, state, path, storage_options=None: (names.append(str(path)), save(self, state, path))[1],
    )  # fmt: skip
    return names


def test_ours_is_train_py_with_the_images_given(source, watch, saved, capsys):
    ours = Ours(source, words=[*WORDS, "matmul=highest"], epochs=2)
    turn = ours.turn(1, watch)
    assert turn.units == 2 and list(turn.figures) == ["train/loss", "val/loss", "val/acc"]
    assert turn.figures == ours.turn(1, watch).figures != ours.turn(2, watch).figures
    assert turn.how == "route of float32 products: highest"
    assert len(saved) >= 3 * 2 and capsys.readouterr().out == ""


def test_only_fit_is_timed(source, clock, monkeypatch):
    import pytorch_lightning as pl

    fit, test = pl.Trainer.fit, pl.Trainer.test
    monkeypatch.setattr(pl.Trainer, "fit", lambda *a, **k: (fit(*a, **k), setattr(clock, "now", clock.now + 3))[0])
    monkeypatch.setattr(pl.Trainer, "test", lambda *a, **k: (test(*a, **k), setattr(clock, "now", clock.now + 50))[0])
    watch = Stopwatch(lambda: None, clock)
    Ours(source, words=WORDS).turn(0, watch)
    assert watch.seconds == 3


def test_ours_without_checkpoints_writes_none_and_trains_the_same(source, watch, saved):
    usual = Ours(source, words=WORDS).turn(0, watch)
    count = len(saved)
    assert Ours(source, words=WORDS, checkpoints=False).turn(0, watch) == usual and len(saved) == count > 0


def test_ours_demands_what_was_asked_for(source, watch):
    with pytest.raises(InputError, match="ours: no CUDA graph was replayed"):
        Ours(source, words=WORDS, captured=True).turn(0, watch)
    torch._dynamo.utils.counters.clear()
    with torch.compiler.set_stance("force_eager"), pytest.raises(InputError, match="no graph was compiled"):
        Ours(source, words=WORDS, compiled=True).turn(0, watch)


def test_words_for_train_py_are_checked_as_its_own(source, watch):
    with pytest.raises(InputError, match="dpeth"):
        Ours(source, words=[*WORDS, "dpeth=3"]).turn(0, watch)
    with pytest.raises(InputError, match="depth=0: must be a whole number"):
        Ours(source, words=[*WORDS, "depth=0"]).turn(0, watch)


def test_another_source_can_have_another_size(watch):
    images = torch.zeros(20, 1, 14, 14, dtype=torch.uint8)
    split = Split(images, torch.arange(20) % 10)
    Ours(Source(split, split, tuple("0123456789")), words=[*WORDS, "data.image_size=14"]).turn(0, watch)
