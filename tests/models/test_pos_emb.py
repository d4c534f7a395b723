import torch

from tests.conftest import TINY
from vitbn import ViT
from vitbn.models.pos_emb import sincos_1d


def test_sincos_table():
    table = sincos_1d(17, 8)
    for n in (0, 1, 16):
        for k in range(1, 5):
            angle = torch.tensor(n * 10000 ** (-k / 4), dtype=torch.float64)
            torch.testing.assert_close(table[n, k - 1].double(), angle.sin(), rtol=0, atol=1e-6)
            torch.testing.assert_close(table[n, k + 3].double(), angle.cos(), rtol=0, atol=1e-6)


def test_pe1d_is_a_buffer_that_is_not_trained():
    net = ViT(**{**TINY, "pos_emb": "pe1d"})
    assert "embedding.positions.table" in dict(net.named_buffers())
    assert sum(p.numel() for p in ViT(**TINY).parameters()) - sum(p.numel() for p in net.parameters()) == 17 * 16
