import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.conftest import TINY
from vitbn import ViT
from vitbn.errors import InputError
from vitbn.models.factory import build
from vitbn.norms import NORMS, make_norm, set_progress, table
from vitbn.norms.batch import Float32Norm
from vitbn.norms.table import import_norm, mixes_tokens


@pytest.fixture(params=list(NORMS))
def kind(request):
    return request.param


def scrambled(kind, features=4):
    """A norm whose every parameter and statistic is arbitrary, in mid-training."""
    torch.manual_seed(0)
    norm = make_norm(kind, features).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    for name, buffer in norm.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 2)
    if kind == "power":
        norm.running_mean.zero_()
    set_progress(norm, 0.01)
    return norm


@pytest.mark.parametrize("training", [True, False])
def test_an_entry_says_truly_whether_it_mixes(kind, training):
    """Whether one token's result changes with the other tokens and images."""
    norm, x = scrambled(kind).train(training), torch.randn(3, 5, 4, dtype=torch.float64)
    other = torch.randn_like(x)
    other[0, 0] = x[0, 0]
    assert mixes_tokens(norm) == (not torch.allclose(copy.deepcopy(norm)(x)[0, 0], norm(other)[0, 0]))


def test_an_entry_that_folds_is_its_affine_map_in_evaluation(kind):
    norm, x = scrambled(kind).eval(), torch.randn(3, 5, 4, dtype=torch.float64)
    if not NORMS[kind].folds:
        assert not hasattr(norm, "as_affine")
        return
    set_progress(norm, 0.9)
    scale, shift = norm.as_affine()
    torch.testing.assert_close(norm(x), x * scale + shift, rtol=0, atol=1e-12)


def test_gradients_are_those_of_finite_differences(kind):
    norm, x = scrambled(kind), torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    norm.track_running_stats = kind != "batch_renorm"  # whose gradient takes r and d for constants
    assert torch.autograd.gradcheck(norm, (x,))


@pytest.mark.parametrize("shape", [(6, 8), (3, 5, 8), (2, 4, 5, 8)])
def test_any_number_of_dimensions(kind, shape):
    norm = make_norm(kind, 8)
    assert norm(torch.randn(shape)).shape == norm.eval()(torch.randn(shape)).shape == shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_half_precision_out_and_statistics_in_float32(kind, dtype):
    torch.manual_seed(0)
    exact, norm = make_norm(kind, 8), make_norm(kind, 8).to(dtype)
    set_progress(exact, 0.5), set_progress(norm, 0.5)
    for _ in range(100):  # 256 + 0.1 * 0.5 is 256 in bfloat16
        x = (torch.randn(4, 5, 8) + 256).to(dtype)
        assert norm(x).dtype == dtype
        exact(x.float())
    assert norm.eval()(x).dtype == dtype
    statistics = [name for name, _ in norm.named_buffers() if name.endswith(("running_mean", "running_var"))]
    for name in statistics:
        assert norm.get_buffer(name).dtype == torch.float32
        torch.testing.assert_close(norm.get_buffer(name), exact.get_buffer(name), rtol=1e-4, atol=0)
    assert not statistics or any(isinstance(module, Float32Norm) for module in norm.modules())


def test_autocast_to_bfloat16_stays_near(kind):
    norm, x = make_norm(kind, 8), torch.randn(4, 5, 8)
    expected = copy.deepcopy(norm)(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x.bfloat16())
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)


def test_initial_weights_are_drawn_anew(kind):
    norm = scrambled(kind)
    for module in norm.modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.reset_parameters()
    fresh = make_norm(kind, 4).double()
    for name, parameter in norm.named_parameters():
        torch.testing.assert_close(parameter, fresh.get_parameter(name))


def test_a_module_that_the_table_does_not_have_counts_as_mixing():
    class Derived(nn.LayerNorm):
        pass

    assert mixes_tokens(Derived(4).eval()) and not mixes_tokens(nn.LayerNorm(4))


def test_an_unknown_kind_or_option_is_named():
    with pytest.raises(ValueError, match="unknown kind 'rmsnorm'; choose from none, layer, batch, batch_scalar"):
        make_norm("rmsnorm", 4)
    with pytest.raises(ValueError, match="groups=3 does not divide 8 features"):
        make_norm({"kind": "group", "groups": 3}, 8)


def test_a_configuration_may_name_a_class_as_a_norm(monkeypatch):
    monkeypatch.setattr(table, "NORMS", dict(NORMS))
    with pytest.raises(ValueError, match="unknown kind 'torch.nn.PReLU'"):  # where only a file has named it
        ViT(**TINY, placement={"final": "torch.nn.PReLU"})
    net = build({"name": "vit", "_target_": "vitbn.ViT", **TINY, "placement": {"final": "torch.nn.RMSNorm"}}, seed=0)
    assert type(net.final_norm) is nn.RMSNorm


@pytest.mark.parametrize("kind", ["nowhere.Norm", "torch.nn.RootNorm"])
def test_a_norm_that_cannot_be_imported_is_named(kind):
    with pytest.raises(InputError, match=rf"norm {kind}: .*PYTHONPATH"):
        import_norm(kind)


def test_the_norms_are_a_library_without_lightning():
    code = "import sys, vitbn.norms; sys.exit('pytorch_lightning' in sys.modules or 'hydra' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
