"""What files of weights hold, as the usual tools write them."""

import os
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch

from tests import foreign
from tests.foreign import saved
from vitbn.errors import InputError
from vitbn.weights.network import load_network, read_weights

HEADS = {"num_attention_heads": 2}


@pytest.fixture(scope="module")
def state():
    return {name: value.float() for name, value in foreign.timm().state_dict().items()}


@pytest.fixture
def head(tmp_path):
    """The bias of the head that is read from a file with such content."""

    def read(content, name="w.pth"):
        return read_weights(saved(tmp_path, content, HEADS, name)).state["head.bias"]

    return read


def moved(state):
    return {name: value + 0.01 for name, value in state.items()}


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "net.model.", "a.b.c."])
def test_what_stands_before_all_names_is_taken_off(head, state, prefix):
    named = {prefix + name: value for name, value in state.items()}
    assert torch.equal(head(named), state["head.bias"])
    assert torch.equal(head({"state_dict": named}, "last.ckpt"), state["head.bias"])  # as Lightning saves it


def test_hugging_faces_prefix_inside_anothers(tmp_path):
    net = foreign.huggingface()
    place = saved(tmp_path, {f"model.{name}": value for name, value in net.state_dict().items()}, HEADS, "w.pth")
    assert torch.equal(read_weights(place).state["head.bias"], net.classifier.bias)


def test_names_outside_of_the_network_are_refused(head, state):
    with pytest.raises(InputError, match="unknown: criterion.weight"):
        head({**{f"model.{name}": value for name, value in state.items()}, "criterion.weight": torch.ones(3)})


def test_averaged_weights_are_taken_and_said(head, state, caplog):
    for raw, averaged in (("state_dict", "state_dict_ema"), ("model", "model_ema")):
        assert torch.equal(head({raw: state, averaged: moved(state)}), state["head.bias"] + 0.01)
        assert f"holds {averaged} and {raw}; the averaged weights {averaged} are taken" in caplog.text
    assert torch.equal(head({"state_dict": state, "state_dict_ema": None}), state["head.bias"])
    both = {**{f"net.{n}": v for n, v in state.items()}, **{f"ema.module.{n}": v for n, v in moved(state).items()}}
    assert torch.equal(head({**both, "ema.n_averaged": torch.tensor(3)}), state["head.bias"] + 0.01)
    with pytest.raises(InputError, match=r"holds several networks \(student\., teacher\.\); keep the weights of one"):
        head({f"{prefix}.{name}": value for prefix in ("student", "teacher") for name, value in state.items()})


class AttributeDict(OrderedDict):
    """A class of somebody's own."""


def test_training_checkpoints_are_read_without_their_classes(head, state):
    training = {
        "arch": "vit_tiny_patch16_224", "state_dict": state, "best": np.float64(0.5), "where": PurePosixPath("a"),
        "args": Namespace(model="vit_tiny_patch16_224", mean=None, gp=None, model_kwargs={}),
        "hyper_parameters": AttributeDict(a=1),
    }  # fmt: skip
    assert torch.equal(head(training), state["head.bias"])
    for change, words in (
        ({"model_kwargs": {"act_layer": "relu"}}, "model_args.act_layer=relu"),
        ({"gp": "avg"}, "global_pool=avg"),
        ({"model": "vit_base_patch16_clip_quickgelu_224"}, "architecture=vit_base_patch16_clip_quick"),
    ):
        with pytest.raises(InputError, match=words):
            head({"state_dict": state, "args": Namespace(**change)})


class Code:
    def __reduce__(self):
        return print, ("executed",)


class Shell:
    def __reduce__(self):
        return os.system, ("echo executed",)


def test_code_beside_the_weights_is_not_run(head, state, capfd):
    assert torch.equal(head({"state_dict": state, "args": Code()}), state["head.bias"])
    for content in ({"state_dict": state, "args": Shell()}, {**state, "head.bias": Code()}):
        with pytest.raises(InputError, match="w.pth: refused, not a checkpoint"):
            head(content)
    assert "executed" not in capfd.readouterr().out


def test_shards_and_pytorch_model_bin(tmp_path, state):
    net = foreign.huggingface()
    net.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    expected = {name: value.float() for name, value in net.state_dict().items()}["classifier.bias"]
    assert torch.equal(read_weights(tmp_path / "shards").state["head.bias"].float(), expected)
    next((tmp_path / "shards").glob("*.safetensors")).unlink()
    with pytest.raises(InputError, match=r"index\.json: its part model-00\S* is not here"):
        read_weights(tmp_path / "shards")
    saved(tmp_path / "bin", state, HEADS, "pytorch_model.bin")
    assert torch.equal(read_weights(tmp_path / "bin").state["head.bias"], state["head.bias"])


@pytest.mark.parametrize(
    "text", ["{}", '{"weight_map": 1}', '{"weight_map": {"a": "../w.bin"}}', '{"weight_map": {"a": 1}}']
)
def test_an_index_names_files_beside_it(tmp_path, text):
    (tmp_path / "pytorch_model.bin.index.json").write_text(text)
    with pytest.raises(InputError, match="no index of the files"):
        read_weights(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_read_as_single(tmp_path, state, dtype):
    half = {name: value.to(dtype) for name, value in state.items()}
    weights = read_weights(saved(tmp_path, half, HEADS))
    assert {value.dtype for value in weights.state.values()} == {torch.float32}
    assert torch.equal(weights.state["head.bias"], half["head.bias"].float())


def refused(place, words):
    with pytest.raises(InputError, match=words) as error:
        load_network(place)
    assert "\n" not in str(error.value) and len(str(error.value).replace(str(place.parent), "")) < 200


def test_compressed_and_lying_archives_are_refused_before_they_are_unpacked(tmp_path, state):
    plain, bomb = saved(tmp_path, state, HEADS, "w.pth"), tmp_path / "bomb.pth"
    with zipfile.ZipFile(plain) as read, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as write:
        for entry in read.infolist():
            write.writestr(entry.filename, read.read(entry))
    refused(bomb, "bomb.pth: refused, it is compressed")
    content = bytearray(plain.read_bytes())
    directory = content.rfind(b"PK\x01\x02")  # the last entry of the central directory
    content[directory + 24 : directory + 28] = (10**9).to_bytes(4, "little")
    bomb.write_bytes(content)
    refused(bomb, "refused, 1,000,...,... bytes are said")


def test_tensors_larger_than_their_memory_are_refused(tmp_path, state):
    torch.save({**state, "head.bias": torch.zeros(1).expand(10**9)}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "not a dictionary of weights")
    torch.save({**state, "head.bias": torch.zeros(3, dtype=torch.int8)}, tmp_path / "w.pth")
    saved(tmp_path, {}, HEADS, "other.pth")
    refused(tmp_path / "w.pth", "of another kind: head.bias torch.int8")


def test_what_is_no_file_is_not_waited_for(tmp_path, state):
    os.mkfifo(tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "w.pth: neither a run")
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    refused(tmp_path / "loop.pth", "loop.pth: does not exist")
    place = saved(tmp_path / "net", state, None)
    os.mkfifo(place.with_name("config.json"))
    refused(place, "config.json: not a regular file")


@pytest.mark.parametrize("place", ["arch", "args"])
def test_references_without_end_are_not_followed(tmp_path, state, place):
    nested = ["x"]
    for _ in range(12):
        nested = [nested] * 10
    said = {"arch": nested} if place == "arch" else {"args": {"model_kwargs": nested}}
    torch.save({"state_dict": state, **said}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "w.pth: refused, what it says of .* is nested")


@pytest.mark.parametrize("is_zip", [True, False])
def test_memory_of_any_length_is_not_asked_for(tmp_path, is_zip):
    torch.save({"w": bytearray(10)}, tmp_path / "w.pth", _use_new_zipfile_serialization=is_zip)
    refused(tmp_path / "w.pth", "w.pth: refused, it wants bytearray to be called")
