import pytest
import torch
from torch import nn

from tests.conftest import TINY
from vitbn.errors import InputError
from vitbn.models import norms
from vitbn.models.factory import build
from vitbn.models.norms import NORMS, ScalarBatchNorm, TokenBatchNorm, import_norm, make_norm, mixes_tokens
from vitbn.models.placements import Kind
from vitbn.models.vit import ViT


def test_every_kind_has_an_entry_and_every_entry_is_a_kind():
    assert list(NORMS) == list(Kind)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", list(NORMS))
def test_an_entry_says_truly_whether_it_mixes(kind, training):
    """Whether one token's result changes with the other tokens and images."""
    torch.manual_seed(0)
    norm, x = make_norm(kind, 4).double().train(training), torch.randn(3, 5, 4, dtype=torch.float64)
    other = torch.randn_like(x)
    other[0, 0] = x[0, 0]
    assert mixes_tokens(norm) == (not torch.allclose(norm(x)[0, 0], norm(other)[0, 0]))


@pytest.mark.parametrize("kind", [kind for kind, norm in NORMS.items() if norm.folds])
def test_an_entry_that_folds_is_an_affine_map_in_evaluation(kind):
    torch.manual_seed(0)
    norm, x = make_norm(kind, 4).double().eval(), torch.randn(3, 5, 4, dtype=torch.float64)
    for parameter in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(parameter)
    expected = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)


def test_a_module_that_the_table_does_not_have_counts_as_mixing():
    class Derived(nn.LayerNorm):
        pass

    assert mixes_tokens(Derived(4).eval()) and not mixes_tokens(nn.LayerNorm(4))


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="unknown norm 'rms'; choose from none, layer, batch, batch_scalar"):
        make_norm("rms", 4)


def test_a_configuration_may_name_a_class_as_a_norm(monkeypatch):
    monkeypatch.setattr(norms, "NORMS", dict(NORMS))
    with pytest.raises(ValueError, match="unknown norm 'torch.nn.RMSNorm'"):  # where only a file has named it
        ViT(**TINY, placement={"final": "torch.nn.RMSNorm"})
    net = build({"name": "vit", "_target_": "vitbn.ViT", **TINY, "placement": {"final": "torch.nn.RMSNorm"}}, seed=0)
    assert type(net.final_norm) is nn.RMSNorm and mixes_tokens(net.final_norm)  # safe until the table says otherwise


@pytest.mark.parametrize("kind", ["nowhere.Norm", "torch.nn.RootNorm"])
def test_a_norm_that_cannot_be_imported_is_named(kind):
    with pytest.raises(InputError, match=rf"norm {kind}: .*PYTHONPATH"):
        import_norm(kind)


@pytest.mark.parametrize("kind", ["batch2d", "batch1d"])
def test_token_batchnorm_is_the_articles(kind):
    """(B, N, D) as (B, D, N, 1) through BatchNorm2d, outputs, gradients and running statistics."""
    torch.manual_seed(0)
    x = torch.randn(5, 7, 6, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    ours = TokenBatchNorm(6).double()
    if kind == "batch2d":
        theirs = nn.BatchNorm2d(6).double()
        # contiguous, because torch 2.14's CPU backward of BatchNorm2d is wrong for a transposed (B, D, N, 1)
        expected = theirs(y.transpose(1, 2)[..., None].contiguous())[..., 0].transpose(1, 2)
    else:
        theirs = nn.BatchNorm1d(6).double()
        expected = theirs(y.transpose(1, 2)).transpose(1, 2)
    weight = torch.randn_like(expected)
    (ours(x) * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=0, atol=1e-14)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=0, atol=1e-14)


@pytest.mark.parametrize("norm", [TokenBatchNorm, ScalarBatchNorm])
def test_batchnorm_gradients_are_those_of_finite_differences(norm):
    torch.manual_seed(0)
    layer, x = norm(4).double(), torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_scalar_batchnorm_normalises_the_whole_tensor():
    torch.manual_seed(0)
    norm = ScalarBatchNorm(4).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 3 + 2 * torch.randn(5, 7, 4, dtype=torch.float64)
    expected = (x - x.mean()) / (x.var(unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean()[None], rtol=0, atol=1e-14)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * x.var()[None], rtol=0, atol=1e-14)
    norm.eval()
    expected = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [TokenBatchNorm, ScalarBatchNorm])
def test_statistics_stay_in_float32_whatever_the_network_is_in(make, dtype):
    torch.manual_seed(0)
    exact, norm = make(8), make(8).to(dtype)
    assert norm.running_mean.dtype == norm.weight.dtype == torch.float32
    for _ in range(200):  # 256 + 0.1 * 0.5 is 256 in bfloat16
        x = (torch.randn(4, 5, 8) + 256).to(dtype)
        y = norm(x)
        assert y.dtype == dtype and norm.eval()(x).dtype == dtype
        norm.train()
        exact(x.float())
    torch.testing.assert_close(norm.running_mean, exact.running_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(norm.running_var, exact.running_var, rtol=1e-4, atol=0)
    assert make(8).double().running_mean.dtype == torch.float64
