import torch
from torch import nn
from vitbench.baselines import vit_pytorch
from vitbench.flops import epoch_work, evaluation_work, training_work

from tests.conftest import TINY
from vitbn import ViT, ViTBN
from vitbn.models.merged_attention import freeze_attention

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


def test_merged_attention_is_counted_as_it_is_computed():
    article = {**SIZE, "dim": 64, "depth": 1, "heads": 8, "dim_head": 64, "mlp_dim": 128}
    ours, usual = ViT(**article), vit_pytorch(article)
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


def test_the_weight_products_of_a_frozen_network_are_not_counted():
    """Merged: x times W_qk, scores, mixed tokens, times W_vo."""
    article = {**SIZE, "dim": 64, "depth": 2, "heads": 8, "dim_head": 64, "mlp_dim": 128}
    net = freeze_attention(ViT(**article).eval(), torch.zeros(1, 1, 28, 28))
    counted = evaluation_work(net, (1, 1, 28, 28))["flop"] / 2

    def block(queries):
        return 2 * queries * 64 * 8 * 64 + 2 * queries * 8 * 17 * 64 + 2 * queries * 64 * 128

    assert counted == 16 * 49 * 64 + block(17) + block(1) + 64 * 10
