"""Files of our own format, honest ones and those that somebody has made to do harm."""

import copy
import json
import sys

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.conftest import TINY
from vitbn.cli import main
from vitbn.errors import InputError
from vitbn.models.placements import complete
from vitbn.models.vit import ViT
from vitbn.weights.files import Weights, write
from vitbn.weights.network import load_network

TARGETS = {
    "vit": "vitbn.ViT", "mlp": "vitbn.models.mlp.MLP", "resnet34": "vitbn.models.published.resnet34",
    "vit_b16": "vitbn.models.vit.VisionTransformer",
}  # fmt: skip
DIGITS = list("0123456789")


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return ViT(**TINY).state_dict()


@pytest.fixture
def make_file(tmp_path, state):
    """A file whose description `change` has changed, with the weights of TINY or others."""

    def make(change=lambda description: None, tensors=state):
        model = {"name": "vit", "_target_": "vitbn.ViT", **TINY}
        description = {"options": dict(TINY), "labels": DIGITS, "mean": [0.0], "std": [1.0], "config": {"model": model}}
        description = copy.deepcopy(description)
        change(description)
        file = tmp_path / "net.safetensors"
        save_file(tensors, file, {"vitbn": json.dumps(description)})
        return file

    return make


def refusal(file):
    with pytest.raises(InputError) as refused:
        load_network(file)
    line = str(refused.value)
    assert line.startswith(f"{file}: ") and "\n" not in line and len(line) < 2000
    return line


def test_an_honest_file_comes_back(make_file, state):
    network = load_network(make_file())
    assert isinstance(network.net, ViT) and not network.net.training and network.options == TINY
    assert all(torch.equal(state[name], value) for name, value in network.net.state_dict().items())


def test_a_file_without_a_run_is_a_plain_vision_transformer(tmp_path, state):
    file = tmp_path / "net.safetensors"
    write(Weights(state, {**TINY, "placement": ViT.placement}, tuple(DIGITS), (0.5,), (0.25,), file))
    network = load_network(file)
    assert network.config["model"]["name"] == "imported" and (network.mean, network.std) == ((0.5,), (0.25,))


SHELL = "${oc.create:{_target_: os.system, command: 'touch PWNED'}}"


@pytest.mark.parametrize("place", ["an option", "a name", "beside the model", "a key"])
def test_no_interpolation_is_resolved(make_file, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)

    def change(description):
        model = description["config"]["model"]
        model |= {"an option": {"y": SHELL}, "a name": {"name": SHELL}, "a key": {SHELL: 1}}.get(place, {})
        if place == "beside the model":
            description["config"]["lr"] = SHELL

    file = make_file(change)
    assert "refused, it holds an interpolation" in refusal(file)
    for command in (["predict", "picture.png"], ["serve"], ["evaluate"], ["export", "--format", "torch"]):
        (tmp_path / "picture.png").write_bytes(b"")
        assert main([*command, "--ckpt", str(file)]) == 2
    assert not (tmp_path / "PWNED").exists()


def test_the_published_attack_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = {"name": "x", "_target_": "torch.nn.Identity", "y": SHELL}
    options = {"image_size": 28, "channels": 1, "num_classes": 10, "heads": 1}
    description = {"options": options, "labels": DIGITS, "mean": [0.0], "std": [1.0], "config": {"model": model}}
    file = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, file, {"vitbn": json.dumps(description)})
    refusal(file)
    with pytest.raises(InputError):
        load_network(tmp_path)  # a folder as of the hub
    assert not (tmp_path / "PWNED").exists()


def test_nothing_is_imported_for_a_file(make_file, tmp_path, monkeypatch):
    (tmp_path / "evilmod.py").write_text("from torch.nn import Identity as Net\n")
    monkeypatch.syspath_prepend(tmp_path)
    for target in ("evilmod.Net", "vitbn_evil.ViT", "torchvision.models.resnet18", "torch.nn.Identity", "ViT", ""):
        file = make_file(lambda d, target=target: d["config"]["model"].update(_target_=target))
        assert f"{target} is not a network of vitbn" in refusal(file)
    assert "evilmod" not in sys.modules
    file = make_file(
        lambda d: d["config"]["model"].update(_target_="vitbn.models.published.resnet34", weights="DEFAULT")
    )
    assert "unknown option" in refusal(file)


def test_networks_are_found_wherever_their_class_stood(make_file):
    for target in ("vitbn.ViT", "vitbn.models.vit.ViT", "vitbn.moved.elsewhere.ViT"):
        assert isinstance(load_network(make_file(lambda d, t=target: d["config"]["model"].update(_target_=t))).net, ViT)


def set_option(name, value):
    def change(description):
        description["config"]["model"][name] = description["options"][name] = value

    return change


def set_key(name, value):
    return lambda description: description.__setitem__(name, value)


def drop(*keys):
    def change(description):
        for key in keys[:-1]:
            description = description[key]
        del description[keys[-1]]

    return change


NONSENSE = {
    "labels too few": set_key("labels", ["a"]),
    "labels no text": set_key("labels", [1] * 10),
    "labels a number": set_key("labels", 10),
    "mean of three": set_key("mean", [0.0] * 3),
    "mean no number": set_key("mean", ["a"]),
    "std zero": set_key("std", [0.0]),
    "std negative": set_key("std", [-1.0]),
    "std NaN": set_key("std", [float("nan")]),
    "std infinite": set_key("std", [float("inf")]),
    "no options": lambda d: (d.pop("options"), d.pop("config")),
    "options a list": lambda d: (d.update(options=[]), d.pop("config")),
    "size a text": set_option("image_size", "28"),
    "size negative": set_option("image_size", -28),
    "size true": set_option("image_size", True),
    "size huge": set_option("image_size", 10**6),
    "width huge": set_option("dim", 10**9),
    "depth huge": set_option("depth", 10**9),
    "patch zero": set_option("patch_size", 0),
    "pool a list": set_option("pool", []),
    "placement a text": set_option("placement", "vit"),
    "placement of nothing known": set_option("placement", {"attn_in": "evil"}),
    "placement of lists": set_option("placement", {"attn_in": [1]}),
    "eps NaN": set_option("norm_eps", float("nan")),
    "an option of nobody": set_option("shell", "rm"),
    "config a text": set_key("config", "abc"),
    "model a text": set_key("config", {"model": "abc"}),
    "no name": drop("config", "model", "name"),
    "name a number": lambda d: d["config"]["model"].update(name=5),
    "name of lines": lambda d: d["config"]["model"].update(name="a\nb"),
    "no target": drop("config", "model", "_target_"),
    "target a list": lambda d: d["config"]["model"].update(_target_=["vitbn.ViT"]),
    "data a list": lambda d: d["config"].update(data=[]),
    "batch size a text": lambda d: d["config"].update(batch_size="all"),
}


@pytest.mark.parametrize("change", NONSENSE.values(), ids=NONSENSE)
def test_a_description_that_fits_nothing_is_one_line(make_file, change):
    assert "what it says about itself cannot be read: " in refusal(make_file(change))


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "5", "null", "[" * 100_000, '{"a":' * 100_000, "9" * 10_000])
def test_metadata_that_is_no_description_is_one_line(tmp_path, state, text):
    save_file(state, tmp_path / "net.safetensors", {"vitbn": text})
    assert "what it says about itself cannot be read: " in refusal(tmp_path / "net.safetensors")


def test_sizes_that_the_weights_do_not_have_take_no_memory(make_file, state):
    assert "of another shape" in refusal(make_file(set_option("mlp_dim", 2**20)))
    assert "missing: blocks.10.attention.to_out.bias" in refusal(make_file(set_option("depth", 250)))
    assert "can be made (patch_size 7 does not divide" in refusal(make_file(set_option("image_size", 29)))
    assert "needs patch_size" in refusal(make_file(drop("config", "model", "patch_size")))

    def table(description):  # computed, so that no weight tells its size
        description["config"]["model"] |= {"pos_emb": "pe1d", "image_size": 4088, "patch_size": 1, "dim": 16}

    computed = {name: value for name, value in state.items() if "positions" not in name}
    computed["embedding.project.weight"] = computed["embedding.project.weight"][:, :1].clone()
    computed |= {f"embedding.in_norm.{name}": torch.ones(1) for name in ("weight", "bias")}
    assert "positions would not fit into memory" in refusal(make_file(table, computed))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(make_file, state, value):
    broken = {**state, "head.bias": torch.full((10,), value)}
    assert refusal(make_file(tensors=broken)).endswith("not finite: head.bias")


def test_negative_variances_are_refused(make_file):
    torch.manual_seed(0)
    net = ViT(**TINY, placement=complete({"final": "batch"}))
    net.final_norm.running_var[3] = -1
    file = make_file(lambda d: d["config"]["model"].update(placement={"final": "batch"}), net.state_dict())
    assert "a negative variance: final_norm.running_var" in refusal(file)


def test_where_data_lie_and_caches_go_is_no_business_of_a_file(make_file):
    data = {"name": "photos", "source": "folder", "root": "elsewhere", "cache": "place", "image_size": 28}
    network = load_network(make_file(lambda d: d["config"].update(data=data)))
    assert network.config["data"] == {"name": "photos", "source": "folder", "image_size": 28}


def test_a_run_from_elsewhere_runs_nothing_and_hangs_nobody(make_saved, make_run, tmp_path, monkeypatch):
    from vitbn.models.factory import build
    from vitbn.weights.pretrained import load_pretrained

    monkeypatch.chdir(tmp_path)
    folder = make_saved()
    file, asking = folder / "config.yaml", make_run(f"model.pretrained={folder}").config
    config = yaml.safe_load(file.read_text())
    net = build(asking["model"], seed=0)
    bomb = "a: &a [1]\n" + "".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '*a'] * 9)}]\n" for i in range(9))
    for text in (
        yaml.safe_dump({**config, "model": {**config["model"], "y": SHELL}}),
        yaml.safe_dump({**config, "model": {**config["model"], "_target_": "mine.Net"}}),
        yaml.safe_dump(config) + bomb,
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=r"config\.yaml: ") as refused:
            load_network(folder)
        assert "\n" not in str(refused.value)
        with pytest.raises(InputError, match=r"config\.yaml: "):
            load_pretrained(net, asking)
    assert not (tmp_path / "PWNED").exists()


def test_a_class_may_be_called_what_it_likes(make_file, tmp_path):
    labels = [SHELL, "${y}", *DIGITS[2:]]
    assert load_network(make_file(set_key("labels", labels))).labels == tuple(labels)
    assert not (tmp_path / "PWNED").exists()
