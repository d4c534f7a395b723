"""Derivatives of every order and kind, on every route: against central differences and torch's own formulas."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.nn import functional as F

from tests.conftest import TINY
from vitbn.models.attention_kernels import merged_product, scaled_dot_product
from vitbn.models.placements import named
from vitbn.models.vit import VisionTransformer

IMAGES = torch.rand(4, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(4)
ROUTES = pytest.mark.parametrize("merged", [False, True])
NETWORKS = pytest.mark.parametrize(
    ("placement", "options"),
    [
        ("vit", {}),
        ("vit", {"qkv_bias": True, "pool": "mean"}),
        ("vit", {"dropout": 0.3}),
        ("vitbn", {"qkv_bias": True}),
    ],
)


def network(placement, **options):
    torch.manual_seed(0)
    return VisionTransformer(**{**TINY, "dim_head": 12, **options}, placement=named(placement)).double()


class Loss:
    """The loss as a function of the parameters, with its directional derivatives."""

    def __init__(self, net):
        self.net = net
        self.parameters = {name: p.detach() for name, p in net.named_parameters()}
        self.buffers = {name: b.clone() for name, b in net.named_buffers()}
        generator = torch.Generator().manual_seed(2)
        self.v = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in self.parameters.items()}

    def __call__(self, parameters):
        torch.manual_seed(3)  # the same dropout masks every time
        state = (parameters, {name: b.clone() for name, b in self.buffers.items()})
        return F.cross_entropy(functional_call(self.net, state, (IMAGES,)), LABELS)

    def along_v(self, gradients):
        return sum((gradients[name] * self.v[name]).sum() for name in self.v)

    def slope(self, step=0.0, create_graph=False):
        """v'g at parameters + step v, and the parameters it is taken at."""
        at = {name: (p + step * self.v[name]).requires_grad_() for name, p in self.parameters.items()}
        gradients = torch.autograd.grad(self(at), list(at.values()), create_graph=create_graph)
        return self.along_v(dict(zip(at, gradients, strict=True))), at

    def curvature(self, step=1e-5):
        """v'Hv by central differences of first derivatives."""
        return (self.slope(step)[0] - self.slope(-step)[0]) / (2 * step)


def assert_same(value, expected):
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


@ROUTES
@NETWORKS
def test_second_derivatives_of_autograd_are_those_of_central_differences(merged, placement, options, merge):
    merge(merged)
    loss = Loss(network(placement, **options).train())
    slope, at = loss.slope(create_graph=True)
    second = torch.autograd.grad(slope, list(at.values()), allow_unused=True, materialize_grads=True)
    assert_same(loss.along_v(dict(zip(at, second, strict=True))), loss.curvature())


@ROUTES
@NETWORKS
def test_transforms_of_torch_func_are_those_of_central_differences(merged, placement, options, merge):
    merge(merged)
    loss = Loss(network(placement, **options).eval())
    expected, at = loss.curvature(), loss.parameters
    forward_over_reverse = jvp(grad(loss), (at,), (loss.v,))[1]
    reverse_over_reverse = grad(lambda parameters: loss.along_v(grad(loss)(parameters)))(at)
    assert_same(loss.along_v(forward_over_reverse), expected)
    assert_same(loss.along_v(reverse_over_reverse), expected)
    assert_same(jvp(loss, (at,), (loss.v,))[1], loss.slope()[0])


@ROUTES
def test_hessians_agree_with_each_other(merged, merge):
    merge(merged)
    net = network("vitbn", qkv_bias=True).eval()
    directions = torch.randn(3, *IMAGES.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def loss(z):
        return F.cross_entropy(net(IMAGES + torch.einsum("i,ibchw->bchw", z, directions)), LABELS)

    z, plain = torch.zeros(3, dtype=torch.float64), torch.autograd.functional.hessian
    expected = hessian(loss)(z)
    assert expected.abs().max() > 1e-3
    for found in (
        plain(loss, z),
        plain(loss, z, vectorize=True),
        plain(loss, z, vectorize=True, outer_jacobian_strategy="forward-mode"),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@ROUTES
def test_gradients_of_every_image_by_vmap(merged, merge):
    merge(merged)
    net = network("vit").eval()
    parameters = dict(net.named_parameters())

    def loss(parameters, image, label):
        return F.cross_entropy(functional_call(net, parameters, (image[None],)), label[None])

    by_image = vmap(grad(loss), (None, 0, 0))({name: p.detach() for name, p in parameters.items()}, IMAGES, LABELS)
    alone = torch.autograd.grad(loss(parameters, IMAGES[2], LABELS[2]), list(parameters.values()))
    for name, expected in zip(parameters, alone, strict=True):
        torch.testing.assert_close(by_image[name][2], expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        together = vmap(lambda image: net(image[None])[0])(IMAGES)
        torch.testing.assert_close(together, net(IMAGES), rtol=0, atol=1e-12)


def inputs_of(product):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()

    if product is scaled_dot_product:
        return random(2, 3, 2, 4), random(2, 3, 5, 4), random(2, 3, 5, 4)
    return random(2, 2, 4), random(2, 5, 4), random(12, 4), random(12), random(12, 4)


@pytest.mark.parametrize("product", [scaled_dot_product, merged_product])
def test_first_and_second_derivatives_of_the_products(product):
    def function(*inputs):
        return product(*inputs, scale=0.3) if product is scaled_dot_product else product(*inputs)

    inputs = inputs_of(product)
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("product", [scaled_dot_product, merged_product])
def test_a_graph_can_be_gone_through_twice_and_by_a_batch_of_gradients(product):
    options = {"scale": 0.3} if product is scaled_dot_product else {}
    inputs = inputs_of(product)
    out = product(*inputs, **options)
    many = torch.randn(3, *out.shape, dtype=torch.float64)
    one_by_one = [torch.autograd.grad(out, inputs, g, retain_graph=True) for g in many]
    together = torch.autograd.grad(out, inputs, many, is_grads_batched=True)
    for batched, singles in zip(together, zip(*one_by_one, strict=True), strict=True):
        torch.testing.assert_close(batched, torch.stack(singles), rtol=0, atol=1e-12)


def test_the_fused_kernel_trains_as_torch_alone_would():
    q, k, v = inputs_of(scaled_dot_product)
    gradients = torch.autograd.grad(scaled_dot_product(q, k, v, scale=0.5).sin().sum(), (q, k, v))
    expected = torch.autograd.grad(F.scaled_dot_product_attention(q, k, v, scale=0.5).sin().sum(), (q, k, v))
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


@ROUTES
def test_a_step_under_autocast_is_close_to_one_in_full_precision(merged, merge):
    merge(merged)
    net = network("vit").float()
    half = copy.deepcopy(net)
    F.cross_entropy(net(IMAGES.float()), LABELS).backward()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(half(IMAGES.float()), LABELS)
    loss.backward()
    for parameter, expected in zip(half.parameters(), net.parameters(), strict=True):
        assert nn.functional.cosine_similarity(parameter.grad.flatten(), expected.grad.flatten(), 0) > 0.98


@pytest.mark.parametrize("self_attention", [True, False])
@pytest.mark.parametrize("leave_out_bias", [True, False])
def test_the_merged_product_keeps_its_own_backward_under_autocast(self_attention, leave_out_bias):
    x, context, w_qk, b_qk, w_vo = inputs_of(merged_product)
    inputs = [x, x if self_attention else context, w_qk, None if leave_out_bias else b_qk, w_vo]
    leaves = [x, w_qk, w_vo, *([] if self_attention else [context]), *([] if leave_out_bias else [b_qk])]
    expected = torch.autograd.grad(merged_product(*inputs).sin().sum(), leaves)
    singles = {leaf: leaf.detach().float().requires_grad_() for leaf in leaves}
    single = [None if part is None else singles[part] for part in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        out = merged_product(*single)
    assert out.dtype == torch.bfloat16
    assert type(out.grad_fn).__name__ == "_MergedProductBackward"
    gradients = torch.autograd.grad(out.float().sin().sum(), list(singles.values()), create_graph=True)
    for gradient, exact in zip(gradients, expected, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient.double() - exact).norm() < 0.15 * exact.norm()
    again = torch.autograd.grad(gradients[0].sum(), list(singles.values()))
    assert all(part.isfinite().all() for part in again)
