"""Networks of other libraries that start from weights: positions, colours and heads adapted, norms of ours fresh."""

import json
import logging

import pytest
import torch
from safetensors.torch import save_file

from vitbn.errors import InputError
from vitbn.models.factory import build
from vitbn.training.train import build_network
from vitbn.weights.library import interpolated, load_library_weights

SIZE = {"image_size": 28, "channels": 3, "num_classes": 3, "placement": {}, "depth": None}
VIT = {
    "timm": {"name": "vit_tiny_patch16_224", "depth": 2, "patch_size": 7, "embed_dim": 24, "num_heads": 2},
    "hf": {"name": "vit", "depth": 2, "patch_size": 7, "hidden_size": 24, "num_attention_heads": 2,
           "intermediate_size": 32},
    "torchvision": {"name": "squeezenet1_1", "image_size": 35},
}  # fmt: skip
PLACED = {"ffn_in": "none", "ffn_hidden": "batch"}


def config(library, pretrained=None, **options):
    model = {"library": library, "_target_": "vitbn.models.libraries.library_network", **SIZE, **VIT[library]}
    data = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    trainer = {"devices": 1, "sync_batchnorm": "auto"}
    return {"model": {**model, "pretrained": pretrained, **options}, "data": data, "seed": 0, "trainer": trainer}


@pytest.fixture
def saved(tmp_path):
    """Weights as their library saves them: another seed's network, in a folder."""

    def save(library, **options):
        net = build(config(library, **options)["model"], seed=7).eval()
        if library == "hf":
            net.model.save_pretrained(tmp_path / "theirs")
        else:
            (tmp_path / "theirs").mkdir()
            save_file(net.state_dict(), tmp_path / "theirs" / "model.safetensors")
        return net, str(tmp_path / "theirs")

    return save


@pytest.mark.parametrize("library", VIT)
def test_the_same_network_gives_their_logits(saved, library):
    theirs, place = saved(library)
    images = torch.rand(2, 3, *[VIT[library].get("image_size", 28)] * 2)
    ours = build_network(config(library, place)).eval()
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("library", VIT)
def test_another_head_and_grey_images_are_adapted_and_said(saved, library, caplog):
    theirs, place = saved(library)
    caplog.set_level(logging.INFO, "vitbn")
    net = build_network(config(library, place, num_classes=5, channels=1))
    own, other = dict(net.named_parameters()), dict(theirs.named_parameters())
    heads = {name for name, value in own.items() if len(value) == 5}
    fresh = dict(build(config(library, num_classes=5, channels=1)["model"], seed=0).named_parameters())
    assert all(torch.equal(own[name], fresh[name]) for name in heads)
    changed = {name for name in own if name not in heads and own[name].shape != other[name].shape}
    assert len(changed) == 1 and all(torch.equal(own[name], other[name]) for name in own.keys() - heads - changed)
    (kernel,) = changed
    torch.testing.assert_close(own[kernel], other[kernel].sum(1, keepdim=True))
    assert "starts anew, 5 classes where there were 3" in caplog.text


@pytest.mark.parametrize("library", ["timm", "hf"])
def test_positions_of_another_size_are_interpolated(saved, library):
    theirs, place = saved(library)
    net = build_network(config(library, place, image_size=56))
    (name,) = (name for name, value in net.named_parameters() if value.shape[:2] == (1, 65))
    expected = interpolated(theirs.get_parameter(name), 65)
    torch.testing.assert_close(net.get_parameter(name), expected)


@pytest.mark.parametrize("library", ["timm", "hf"])
def test_norms_of_ours_start_fresh_and_all_else_from_the_weights(saved, library):
    theirs, place = saved(library)
    net = build_network(config(library, place, placement=PLACED))
    other = dict(theirs.named_parameters())
    kept = {name: value for name, value in net.named_parameters() if name in other}
    added = [value for name, value in net.named_parameters() if name not in other]
    assert len(kept) == len(other) - 4 and all(torch.equal(value, other[name]) for name, value in kept.items())
    assert sorted(value.mean().item() for value in added) == [0, 0, 1, 1]


def test_weights_with_the_same_norms_bring_them(saved):
    theirs, place = saved("timm", placement=PLACED)
    state = {name: torch.full_like(value, 2) if "norm_before" in name else value
             for name, value in theirs.state_dict().items()}  # fmt: skip
    save_file(state, f"{place}/model.safetensors")
    net = build_network(config("timm", place, placement=PLACED))
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def refusal(cfg):
    with pytest.raises(InputError) as refused:
        build_network(cfg)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_what_does_not_fit_is_said_with_what_to_type(saved, tmp_path):
    _, place = saved("hf")
    assert "is of another network; type +model.hidden_size=24" in refusal(config("hf", place, hidden_size=32))
    assert "type +model.num_hidden_layers=2" in refusal(config("hf", place, depth=3))
    assert "type model.name=vit" in refusal(config("hf", place, name="deit"))
    description = tmp_path / "theirs" / "config.json"
    said = json.loads(description.read_text())
    description.write_text(json.dumps({**said, "hidden_act": "relu"}))
    assert "type +model.hidden_act=" in refusal(config("hf", place))
    description.unlink()
    assert "config.json" in refusal(config("hf", place))


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_weights_of_another_network_are_refused(saved, library):
    _, place = saved("timm", depth=3)
    assert str(place) in refusal(config(library, place))


def test_a_file_that_holds_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "done").touch, ()

    torch.save({"w": Evil()}, tmp_path / "theirs.pth")
    assert "theirs.pth" in refusal(config("timm", str(tmp_path / "theirs.pth")))
    assert not (tmp_path / "done").exists()


def test_another_standardisation_is_said(saved, caplog):
    _, place = saved("hf")
    with open(f"{place}/preprocessor_config.json", "w") as file:
        json.dump({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5]}, file)
    cfg = config("hf", place)
    load_library_weights(build(cfg["model"], seed=0), cfg)
    assert "data.mean=[0.5, 0.5, 0.5]: the weights were trained with 0.1, 0.2, 0.3" in caplog.text
    assert "data.std" not in caplog.text


def test_timms_own_weights_come_from_the_hub_and_are_one_line_if_not(monkeypatch):
    import huggingface_hub

    def offline(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    line = refusal(config("timm", True))
    assert "timm/vit_tiny_patch16_224" in line and "no network" in line


@pytest.mark.parametrize(("old", "new", "prefix"), [(17, 10, 1), (16, 9, 0), (18, 11, 2)])
def test_positions_keep_what_stands_before_the_square(old, new, prefix):
    table = torch.rand(1, old, 4)
    resized = interpolated(table, new)
    assert resized.shape == (1, new, 4) and torch.equal(resized[:, :prefix], table[:, :prefix])
    assert interpolated(table, new + 1) is None
