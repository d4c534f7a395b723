import pytest
import torch
from torch import nn
from vitbench.flops import epoch_work, evaluation_work, training_work
from vitbench.others import parameters, standard_route, timm, vit_pytorch

from tests.conftest import TINY
from vitbn import ViT, ViTBN

SIZE = {key: TINY[key] for key in TINY if key not in ("pool", "dropout", "emb_dropout", "pos_emb")}


def forward_multiplications(images, s):
    """Of vit-pytorch's ViT, written down from its definition."""
    patches = (s["image_size"] // s["patch_size"]) ** 2
    tokens, inner = patches + 1, s["heads"] * s["dim_head"]
    embedding = patches * s["channels"] * s["patch_size"] ** 2 * s["dim"]
    attention = tokens * s["dim"] * 3 * inner + 2 * tokens * tokens * inner + tokens * inner * s["dim"]
    block = attention + 2 * tokens * s["dim"] * s["mlp_dim"]
    return images * (embedding + s["depth"] * block + s["dim"] * s["num_classes"])


def test_evaluation_against_the_formula():
    net = vit_pytorch(SIZE)
    assert evaluation_work(net, (3, 1, 28, 28))["flop"] == 2 * forward_multiplications(3, SIZE)


def test_training_is_three_times_the_forward_pass_but_for_the_gradient_of_the_images():
    net = vit_pytorch(SIZE)
    forward = evaluation_work(net, (3, 1, 28, 28))["flop"]
    first_layer = 2 * 3 * 16 * 49 * SIZE["dim"]
    # its patch LayerNorm has weights, so the gradient reaches the flattened patches: nothing is spared
    assert training_work(net, (3, 1, 28, 28))["flop"] == 3 * forward
    net.to_patch_embedding[1] = nn.Identity()
    assert training_work(net, (3, 1, 28, 28))["flop"] == 3 * forward - first_layer


def test_the_route_that_is_taken_is_the_one_that_is_counted():
    article = {**SIZE, "dim": 64, "depth": 1, "heads": 8, "dim_head": 64, "mlp_dim": 128}
    ours, usual = ViT(**article), standard_route(ViT(**article))
    assert training_work(ours, (100, 1, 28, 28))["flop"] < training_work(usual, (100, 1, 28, 28))["flop"]
    counts = [training_work(ours, (n, 1, 28, 28))["flop"] for n in (100, 200)]
    assert counts[1] < 2 * counts[0]  # weight products are made once per step, however many images


def test_bytes_of_one_layer():
    net = nn.Linear(10, 5)
    work = evaluation_work(net, (4, 10))
    assert work == {"flop": 2 * 4 * 10 * 5, "bytes": 4 * (4 * 10 + 10 * 5 + 5 + 4 * 5)}
    assert training_work(net, (4, 10))["bytes"] > 28 * 55


def test_an_epoch_is_its_batches_and_the_rest():
    net = ViTBN(**TINY)
    shapes = {n: (n, 1, 28, 28) for n in (3, 4, 7)}
    work = epoch_work(net, (11, 1, 28, 28), (7, 1, 28, 28), 4, 100)
    for name in ("flop", "bytes"):
        steps = 2 * training_work(net, shapes[4])[name] + training_work(net, shapes[3])[name]
        assert work[name] == steps + evaluation_work(net, shapes[7])[name]


def test_counting_leaves_the_network_alone():
    net = ViTBN(**TINY)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    training_work(net, (4, 1, 28, 28))
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("wide_heads", [True, False])
def test_timm_has_the_size_that_is_said(wide_heads):
    net = timm(SIZE, wide_heads=wide_heads)
    attention = net.blocks[0].attn
    assert (attention.num_heads, attention.head_dim) == (2, 8 if wide_heads else 8)
    wider = timm({**SIZE, "dim_head": 20}, wide_heads=wide_heads)
    assert wider.blocks[0].attn.head_dim == (20 if wide_heads else 8)
    assert net(torch.rand(2, 1, 28, 28)).shape == (2, 10) and len(net.blocks) == 2


def test_the_others_are_as_large_as_ours():
    article = {**SIZE, "dim": 64, "depth": 6, "heads": 8, "dim_head": 64, "mlp_dim": 128}
    assert parameters(vit_pytorch(article)) == parameters(ViT(**article)) == 893_164
    assert parameters(timm(article)) == 893_164 - 2 * 49 - 2 * 64 - 0  # no norms around its patch embedding
    assert parameters(timm(article, wide_heads=False)) < 893_164 / 4


def test_the_standard_route_is_the_same_function():
    net = ViT(**{**TINY, "dim": 64, "dim_head": 64}).eval()
    images = torch.rand(9, 1, 28, 28)
    with torch.no_grad():
        merged = net(images)
        assert any(block.attention.takes_merged(torch.rand(9, 17, 64)) for block in net.blocks)
        torch.testing.assert_close(standard_route(net)(images), merged, rtol=1e-4, atol=1e-5)
    assert not any(block.attention.takes_merged(torch.rand(9, 17, 64)) for block in net.blocks)


def test_what_is_kept_in_evaluation_is_not_counted():
    """The merged route: u times W_qk, scores, mixed tokens, times W_vo; the products of weights were made before."""
    article = {**SIZE, "dim": 64, "depth": 2, "heads": 8, "dim_head": 64, "mlp_dim": 128}
    net = ViT(**article)
    counted = evaluation_work(net, (1, 1, 28, 28))["flop"] / 2

    def block(queries):
        return 2 * queries * 64 * 8 * 64 + 2 * queries * 8 * 17 * 64 + 2 * queries * 64 * 128

    assert counted == 16 * 49 * 64 + block(17) + block(1) + 64 * 10
