from contextlib import contextmanager, nullcontext
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from tests.conftest import TINY
from vitbn import ViTBN
from vitbn.data.batches import Batch
from vitbn.training import cuda_graph as capture
from vitbn.training.cuda_graph import Captured

OPTIMIZERS = {
    "adam": partial(torch.optim.Adam, lr=0.01, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=0.01),
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
}


class Module(pl.LightningModule):
    def __init__(self, optimizer):
        super().__init__()
        torch.manual_seed(0)
        self.net = ViTBN(**TINY).double()  # in float32 Adam blows up the noise of gradients that cancel
        self.optimizer = optimizer(self.parameters())

    def step(self, batch):
        logits = self.net(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach(), loss.detach() * 2, logits.detach()


@pytest.fixture
def graphs(monkeypatch):
    """CUDA graphs in plain Python: while recording nothing runs, a replay runs the step on the recorded tensors."""

    class Graph:
        step = batch = outcome = None

        def replay(self):
            for kept, new in zip(self.outcome, self.step(self.batch), strict=True):
                kept.copy_(new)

    @contextmanager
    def recording(graph):
        module.recorded = graph
        yield
        module.recorded = None

    class module:
        recorded = None

    def recordable(step):
        def wrapped(batch):
            if module.recorded is None:
                return step(batch)
            graph = module.recorded
            graph.step, graph.batch = step, batch
            graph.outcome = tuple(torch.zeros(shape, dtype=torch.float64) for shape in ((), (), (len(batch[1]), 10)))
            return graph.outcome

        return wrapped

    class Stream:
        def wait_stream(self, other):
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return recordable


def batches(count):
    return [Batch(torch.rand(6, 1, 28, 28, dtype=torch.float64), torch.arange(6) + i % 4, 6) for i in range(count)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("before", [0, 3])
def test_warming_up_and_recording_leave_no_trace(graphs, optimizer, before):
    """Recorded at the start or later: weights, statistics, moments and what a step returns are the plain loop's."""
    plain, recorded = Module(optimizer), Module(optimizer)
    data = batches(before + 4)
    expected = [plain.step(batch) for batch in data]
    outcomes = [recorded.step(batch) for batch in data[:before]]
    captured = Captured(graphs(recorded.step), data[-1], recorded, recorded.optimizer)
    outcomes += [captured(batch) for batch in data[before:]]
    for outcome, wanted in zip(outcomes, expected, strict=True):
        for a, b in zip(outcome, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    for a, b in zip(
        capture._tensors(recorded, recorded.optimizer), capture._tensors(plain, plain.optimizer), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_only_batches_of_the_recorded_shape_fit(graphs):
    module = Module(OPTIMIZERS["adam"])
    captured = Captured(graphs(module.step), batches(1)[0], module, module.optimizer)
    assert captured.fits(batches(1)[0]) and not captured.fits(Batch(torch.rand(5, 1, 28, 28), torch.arange(5), 5))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_real_graph_trains_like_the_plain_loop(optimizer):
    plain, recorded = (Module(optimizer).cuda() for _ in range(2))
    for module in (plain, recorded):
        module.optimizer = optimizer(module.parameters())
    data = [Batch(images.cuda(), labels.cuda(), 6) for images, labels, _ in batches(200)]
    expected = [plain.step(batch)[0].item() for batch in data]
    captured = Captured(recorded.step, data[0], recorded, recorded.optimizer)
    assert [captured(batch)[0].item() for batch in data] == pytest.approx(expected, rel=1e-6)
