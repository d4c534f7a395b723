"""Checkpoints of vit-pytorch's ViT and of its descendants against the networks that they are of."""

import pytest
import torch
import vit_pytorch

from tests import foreign
from tests.foreign import saved
from tests.weights.descendants import Wrapped, article, elder
from vitbn.errors import InputError
from vitbn.models.placements import named
from vitbn.weights.network import load_network, read_weights

SIZE = {"image_size": 28, "patch_size": 7, "num_classes": 3, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8,
        "mlp_dim": 24, "channels": 1}  # fmt: skip
HEADS = {"heads": 2}


def theirs(**options):
    return foreign.scattered(vit_pytorch.ViT(**SIZE | options))


def agree(place, net, channels=1):
    """The network of the file, whose logits are those of the network that wrote it."""
    images = torch.randn(4, channels, 28, 28, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected, ours = foreign.logits(net, images).float(), load_network(place)
    assert expected.std() > 0.1
    torch.testing.assert_close(foreign.logits(ours.net, images.float()), expected, rtol=1e-4, atol=1e-5)
    return ours


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, HEADS), ({"channels": 3}, HEADS), ({"dim": 64, "heads": 3, "dim_head": 64}, None),
     ({"dim": 16, "heads": 1, "dim_head": 16}, None), ({}, {"dim_head": 8, "dim": 16, "mlp_dim": 24, "pool": "cls"})],
)  # fmt: skip
def test_logits_are_those_of_vit_pytorch(tmp_path, options, said):
    net = theirs(**options)
    ours = agree(saved(tmp_path, net.state_dict(), said, "w.pth"), net, options.get("channels", 1))
    assert ours.options["heads"] == options.get("heads", 2) and (ours.mean[0], ours.std[0]) == (0.0, 1.0)


def test_the_elder_spelling(tmp_path):
    net = theirs()
    net.to_patch_embedding[1] = net.to_patch_embedding[3] = torch.nn.Identity()
    place = saved(tmp_path, elder(net.state_dict()), HEADS, "w.pth")
    assert agree(place, net).options["placement"] == named("vit_b16")
    saved(tmp_path, elder(net.state_dict()), {**HEADS, "pool": "mean"}, "w.pth")
    with pytest.raises(InputError, match="norms the mean of its tokens"):
        read_weights(place)


ARTICLE = {
    "BatchNorm in the feed-forward": ({}, {"ffn_hidden": "batch"}),
    "unwrapped": ({"ffn": ("BN",)}, {"ffn_hidden": "batch"}),
    "with the pre-norm": ({"ffn": ("LN", "BN")}, {"ffn_in": "layer", "ffn_hidden": "batch"}),
    "twice": ({"ffn": ("BN1", "BN2")}, {"ffn_hidden": "batch", "ffn_act": "batch"}),
    "everywhere": ({"norm": Wrapped}, {"ffn_hidden": "batch", "attn_in": "batch", "final": "batch"}),
    "and behind": ({"norm": Wrapped, "ffn": ("norm1", "norm2")}, {"ffn_hidden": "batch", "ffn_out": "batch"}),
    "without a bias": ({"bias": False}, {}),
    "one head": ({"heads": 1, "dim_head": 16}, {}),
    "the mean": ({"pool": "mean"}, {}),
    "in colour": ({"channels": 3}, {}),
}


@pytest.mark.parametrize(("options", "placement"), ARTICLE.values(), ids=ARTICLE)
def test_logits_are_those_of_the_articles_networks(tmp_path, options, placement, caplog):
    net, said = article(**options), {"heads": options.get("heads", 2), "pool": options.get("pool", "cls")}
    ours = agree(saved(tmp_path, net.state_dict(), said, "w.pth"), net, options.get("channels", 1))
    assert ours.options["placement"].items() >= placement.items()
    assert ours.options["qkv_bias"] is options.get("bias", True)
    assert "taken to have pos_emb=learn; if not, say it in config.json" in caplog.text


def test_blocks_that_never_ran_are_left_out(tmp_path, caplog):
    net = article(ffn=("BN",), stops=True)
    assert agree(saved(tmp_path, net.state_dict(), HEADS, "w.pth"), net).options["depth"] == 1
    assert "only 1 of 2 blocks ever ran" in caplog.text


def test_sincos_positions_where_the_description_says_so(tmp_path):
    weights = read_weights(saved(tmp_path, article().state_dict(), {**HEADS, "pos_emb": "pe1d"}, "w.pth"))
    assert weights.options["pos_emb"] == "pe1d" and "embedding.positions.table" not in weights.state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s | {"cls_token": s["cls_token"][:0], "pos_embedding": s["pos_embedding"][1:]}, "has no CLS token"),
        (lambda s: s | {"register_tokens": s["cls_token"]}, "unknown: register_tokens"),
        (lambda s: {k: v for k, v in s.items() if k != "cls_token"}, "missing: embedding.cls"),
        (lambda s: s | {"pos_embedding_random": s["pos_embedding"]}, "has twice"),
        (lambda s: s | {"to_patch_embedding.2.weight": s["to_patch_embedding.2.weight"][:, :48]}, "of another shape"),
        (
            lambda s: s | {"to_patch_embedding.2.weight": s["to_patch_embedding.2.weight"][:, :47]},
            "patches of 47 values",
        ),
        (lambda s: s | {"transformer.layers.0.0.temperature": torch.ones(1)}, "unknown: transformer.layers.0.0.temp"),
    ],
)
def test_other_networks_of_the_library_are_refused(tmp_path, change, words):
    place = saved(tmp_path, change(theirs().state_dict()), HEADS, "w.pth")
    with pytest.raises(InputError, match=words) as refused:
        load_network(place)
    assert len(str(refused.value).replace(str(tmp_path), "")) < 200
