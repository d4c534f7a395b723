import json
import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests import foreign
from tests.foreign import EPS, SIZE, saved
from vitbn.errors import InputError
from vitbn.models.vit import VisionTransformer
from vitbn.weights.files import write
from vitbn.weights.network import load_network, read_weights
from vitbn.weights.pretrained import load_pretrained, model_overrides, vit_options

HEADS = {"num_attention_heads": 2}


def hub_file(folder, net):
    net.save_pretrained(folder)
    return folder


def in_memory(folder, net):
    return saved(folder, net.state_dict(), {**HEADS, "layer_norm_eps": 1e-12})


def without_prefix(folder, net):
    state = {name.removeprefix("vit."): tensor for name, tensor in net.state_dict().items()}
    return saved(folder, state, HEADS).parent


def timms(folder, net):
    from timm.models import save_for_hf

    net.pretrained_cfg = {"architecture": "vit_tiny_patch16_224", "input_size": (3, 28, 28), "mean": (0.1, 0.2, 0.3)}
    save_for_hf(net, folder, safe_serialization=True, model_args={"num_heads": 2})
    return folder


def pth(folder, net):
    return saved(folder, {"model": net.state_dict()}, HEADS, "weights.pth")


def published(folder, net):
    """torchvision's files have an older spelling than its networks."""
    state = {
        n.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): t for n, t in net.state_dict().items()
    }
    return saved(folder, state, HEADS, "vit_b_16.pth")


CASES = [
    ("Hugging Face", foreign.huggingface, hub_file), ("Hugging Face", foreign.huggingface, in_memory),
    ("Hugging Face", foreign.huggingface, without_prefix), ("timm", foreign.timm, timms), ("timm", foreign.timm, pth),
    ("torchvision", foreign.torchvision, pth), ("torchvision", foreign.torchvision, published),
]  # fmt: skip


def config(place, **options):
    return {"model": {**SIZE, "name": "vit", "pretrained": str(place), **options}, "data": {"mean": 0.5, "std": 0.5}}


def started(place, **options):
    """A network of ours in float64, started as train.py starts it."""
    cfg = config(place, **options)
    torch.manual_seed(1)
    net = VisionTransformer(**{k: v for k, v in cfg["model"].items() if k not in ("name", "pretrained")}).double()
    load_pretrained(net, cfg)
    return net.eval()


def pictures(channels=3, side=28):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(4, channels, side, side, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("library", "make", "save"), CASES)
def test_logits_are_those_of_the_source_library(library, make, save, tmp_path):
    theirs, images = make(), pictures()
    place, expected = save(tmp_path / "net", theirs), foreign.logits(theirs, images)
    assert expected.std() > 0.1
    ours = started(place, norm_eps=EPS[library])
    torch.testing.assert_close(foreign.logits(ours, images), expected, rtol=0, atol=1e-10)
    alone = load_network(place)
    assert not alone.net.training and (alone.image_size, alone.channels) == (28, 3)
    torch.testing.assert_close(foreign.logits(alone.net, images.float()), expected.float(), rtol=0, atol=1e-5)


def test_the_configuration_beside_the_weights_tells_their_eps(tmp_path):
    theirs, images = foreign.huggingface(layer_norm_eps=1e-3), pictures()
    place = hub_file(tmp_path, theirs)
    expected = foreign.logits(theirs, images)
    torch.testing.assert_close(foreign.logits(started(place, norm_eps=1e-3), images), expected, rtol=0, atol=1e-10)
    one_line(place, "another network; type model.norm_eps=0.001$")


@pytest.mark.parametrize("side", [14, 42])
def test_positions_are_interpolated_as_timm_does(side, tmp_path, caplog):
    caplog.set_level(logging.INFO, "vitbn")
    theirs, images = foreign.timm(dynamic_img_size=True), pictures(side=side)
    ours = started(pth(tmp_path, theirs), norm_eps=1e-6, image_size=side)
    # timm interpolates in float32
    torch.testing.assert_close(foreign.logits(ours, images), foreign.logits(theirs, images), rtol=0, atol=1e-5)
    assert f"interpolated (bicubic) from 4 x 4 to {side // 7} x {side // 7}" in caplog.text


def test_one_channel_sees_what_three_equal_ones_gave(tmp_path, caplog):
    caplog.set_level(logging.INFO, "vitbn")
    theirs, grey = foreign.timm(), pictures(channels=1)
    ours = started(pth(tmp_path, theirs), norm_eps=1e-6, channels=1)
    expected = foreign.logits(theirs, grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(foreign.logits(ours, grey), expected, rtol=0, atol=1e-10)
    assert "patch kernels: summed over 3 channels into one" in caplog.text


@pytest.mark.parametrize("headless", [True, False])
def test_a_head_of_other_classes_starts_anew_and_nothing_else_does(headless, tmp_path, caplog):
    caplog.set_level(logging.INFO, "vitbn")
    theirs, images = foreign.huggingface(), pictures()
    state = {n: t for n, t in theirs.state_dict().items() if not (headless and n.startswith("classifier"))}
    pooler = {"vit.pooler.dense.weight": torch.zeros(16, 16), "vit.pooler.dense.bias": torch.zeros(16)}
    place = saved(tmp_path, {**state, **pooler}, HEADS)
    ours = started(place, norm_eps=1e-12, num_classes=5)
    torch.manual_seed(1)
    untouched = VisionTransformer(**{**SIZE, "num_classes": 5}).double()
    assert torch.equal(ours.head.weight, untouched.head.weight) and torch.equal(ours.head.bias, untouched.head.bias)
    ours.head, theirs.classifier = nn.Identity(), nn.Identity()
    torch.testing.assert_close(foreign.logits(ours, images), foreign.logits(theirs, images), rtol=0, atol=1e-10)
    assert f"head: starts anew, 5 classes where there were {0 if headless else 3}" in caplog.text
    if headless:
        with pytest.raises(InputError, match="has no classifier; train one with model.pretrained="):
            load_network(place)


def test_labels_mean_and_std_come_from_the_files(tmp_path, caplog):
    names = {0: "cat", 1: "dog", 2: "owl"}
    place = hub_file(tmp_path / "hf", foreign.huggingface(id2label=names, label2id={}))
    network = load_network(place)
    assert network.labels == ("cat", "dog", "owl") and network.mean == network.std == (0.5, 0.5, 0.5)
    assert "says nothing of mean and std; taken to be (0.5, 0.5, 0.5)" in caplog.text
    said = {"do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (place / "preprocessor_config.json").write_text(json.dumps(said))
    network = load_network(place)
    assert (network.mean, network.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    white = network.normalise(torch.full((1, 3, 28, 28), 255, dtype=torch.uint8))
    torch.testing.assert_close(white[0, :, 0, 0], torch.tensor([0.9 / 0.4, 0.8 / 0.5, 0.7 / 0.6]))
    (place / "preprocessor_config.json").write_text('{"do_normalize": false}')
    assert load_network(place).std == (1.0, 1.0, 1.0)
    assert load_network(timms(tmp_path / "timm", foreign.timm())).mean == (0.1, 0.2, 0.3)
    network = load_network(pth(tmp_path / "torchvision", foreign.torchvision()))
    assert network.mean == (0.485, 0.456, 0.406) and network.labels == ("0", "1", "2")


def test_published_widths_tell_the_heads_and_torchvision_its_labels(tmp_path, caplog):
    from torchvision.models import VisionTransformer as Theirs

    theirs = Theirs(image_size=14, patch_size=7, num_layers=1, num_heads=3, hidden_dim=192, mlp_dim=8, num_classes=1000)
    place, images = tmp_path / "ti.pth", pictures(side=14).float()
    torch.save(theirs.state_dict(), place)
    network = load_network(place)
    assert network.labels[0] == "tench" and len(network.labels) == 1000
    assert network.config["model"]["heads"] == 3 and "taken to have 3 heads" in caplog.text
    torch.testing.assert_close(
        foreign.logits(network.net, images), foreign.logits(theirs.eval(), images), rtol=0, atol=1e-5
    )
    odd = saved(tmp_path / "odd", foreign.timm().state_dict())
    with pytest.raises(InputError, match="how many heads it has; put config.json with .*num_attention_heads.* beside"):
        load_network(odd)


def test_our_own_file_says_all_by_itself(tmp_path):
    weights = read_weights(str(timms(tmp_path / "timm", foreign.timm())))
    file = tmp_path / "alone" / "own.safetensors"
    file.parent.mkdir()
    options = {**weights.options, "placement": {"attn_in": "layer", "ffn_in": "layer", "final": "layer"}}
    write(type(weights)(weights.state, options, ("a", "b", "c"), weights.mean, weights.std, file))
    network, images = load_network(file), pictures().float()
    assert network.labels == ("a", "b", "c") and network.mean == (0.1, 0.2, 0.3) and network.source == file
    expected = foreign.logits(load_network(tmp_path / "timm").net, images)
    assert torch.equal(foreign.logits(network.net, images), expected)


def one_line(place, words, **options):
    with pytest.raises(InputError, match=words) as refused:
        started(place, norm_eps=1e-6, **options)
    assert "\n" not in str(refused.value)


def test_another_network_says_what_to_type(tmp_path):
    place = pth(tmp_path, foreign.timm())
    words = "another network; type model.patch_size=7 model.dim=16 depth=2 norm=vit_b16"
    one_line(place, words, dim=24, depth=3, patch_size=14, placement={"attn_in": "layer"})
    one_line(place, "model.heads=2 model.dim_head=8", heads=4, dim_head=4)
    one_line(place, "model.qkv_bias=true", qkv_bias=False)
    assert model_overrides({"placement": {"qk": "layer"}})["placement"].startswith(
        "norm.embed_in=none norm.embed_out=none"
    )
    with pytest.raises(InputError, match="model=mlp is no Vision Transformer"):
        load_pretrained(nn.Linear(2, 2), config(place, name="mlp"))
    one_line(place, "of another shape: embedding.project.weight", channels=4)


def test_unknown_and_missing_names_are_listed(tmp_path):
    state = foreign.timm().state_dict()
    more = {**state, "fc_norm.weight": torch.ones(16), "blocks.0.ls1.gamma": torch.ones(16)}
    more = saved(tmp_path / "a", more, HEADS)
    one_line(more, r"has what our network has not, unknown: blocks\.0\.ls1\.gamma, fc_norm\.weight")
    less = {name: tensor for name, tensor in state.items() if name not in ("norm.bias", "blocks.1.mlp.fc2.bias")}
    one_line(saved(tmp_path / "b", less, HEADS), r"not fit; missing: blocks\.1\.ffn\.fc2\.bias, final_norm\.bias")
    one_line(saved(tmp_path / "c", {"cls_token": state["cls_token"]}, HEADS), "incomplete, missing: embedding.project")
    one_line(saved(tmp_path / "d", {"conv1.weight": state["norm.bias"]}, HEADS), "no Vision Transformer.* conv1.weight")
    narrow = {**state, "pos_embed": state["pos_embed"][:, :-1]}
    one_line(saved(tmp_path / "e", narrow, HEADS), "16 positions are not one for CLS and a square of patches")


def test_equal_names_of_another_function_are_refused(tmp_path):
    state = foreign.timm().state_dict()
    one_line(saved(tmp_path / "a", state, {**HEADS, "hidden_act": "quick_gelu"}), "hidden_act=quick_gelu; our network")
    one_line(saved(tmp_path / "b", state, {**HEADS, "global_pool": "avg"}), "global_pool=avg; our network")


class Code:
    def __reduce__(self):
        return print, ("executed",)


def test_bad_files_are_one_line(tmp_path, capsys):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"x" * 100)
    one_line(bad, "bad.safetensors: damaged, or no safetensors file")
    torch.save({"cls_token": Code()}, tmp_path / "code.pth")
    one_line(tmp_path / "code.pth", "code.pth: refused, not a checkpoint of weights and plain data")
    assert "executed" not in capsys.readouterr().out
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    one_line(tmp_path / "other.pth", "other.pth: not a dictionary of weights")
    one_line(tmp_path, r"neither a run \(config.yaml\) nor weights \(model.safetensors\)")
    one_line(tmp_path / "nowhere.pth", "nowhere.pth: does not exist, neither a file or folder here nor a hub ID")
    place = saved(tmp_path / "net", foreign.timm().state_dict())
    for text, words in (("{", "config.json: broken JSON"), ("[]", "config.json: not a JSON object")):
        (place.parent / "config.json").write_text(text)
        one_line(place, words)


def test_a_run_is_read_without_a_second_network(make_saved, make_run, monkeypatch):
    from vitbn.models.factory import build
    from vitbn.weights import network

    folder = make_saved("model=vitbnffn")
    expected = load_network(folder).net.state_dict()
    monkeypatch.setattr(network, "build_known", None)
    cfg = make_run("model=vitbnffn", f"model.pretrained={folder}").config
    net = build(cfg["model"], seed=1)
    load_pretrained(net, cfg)
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())
    mlp = {"image_size": 28, "channels": 1, "num_classes": 10, "hidden": [8], "activation": "relu"}
    with pytest.raises(InputError, match="last.ckpt: MLP is no Vision Transformer"):
        vit_options(replace(read_weights(folder), architecture="MLP", options=mlp))


def test_train_starts_from_a_run_and_from_its_file(make_run, tmp_path, caplog):
    from vitbn.training.outcome import attempt
    from vitbn.training.train import train

    caplog.set_level(logging.INFO, "vitbn")
    first = make_run("epochs=1", "model.pretrained=null")
    plain = attempt(first, train)
    assert first.id == make_run("epochs=1").id
    second = make_run("epochs=1", f"model.pretrained={first.folder}", "lr=1e-9")
    again = attempt(second, train)
    saved_weights = load_network(first.folder).net
    from vitbn.training.fingerprint import digest

    assert second.id != first.id and again["fingerprint"]["init"] == digest(*saved_weights.parameters())
    assert again["metrics"]["test/acc"] == pytest.approx(plain["metrics"]["test/acc"])
    assert load_network(second.folder).config["model"]["pretrained"] == str(first.folder)
    assert f"{first.checkpoints / 'last.ckpt'}: initial weights" in caplog.text
