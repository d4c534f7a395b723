import json
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vitbn.cli import main
from vitbn.data.mnist import CLOTHES
from vitbn.data.sources import load
from vitbn.errors import InputError
from vitbn.inference import export
from vitbn.norms import TokenBatchNorm
from vitbn.weights.network import load_network


def exported(folder, form, *words):
    """The written file."""
    suffix = export.FORMATS[form].suffix
    assert main(["export", "--ckpt", str(folder), "--format", form, *map(str, words)]) == 0
    return folder / "export" / f"{folder.name}{suffix}"


def assert_close(logits, network, images, tolerance):
    with torch.no_grad():
        torch.testing.assert_close(logits, network.net(network.standardise(images)), rtol=0, atol=tolerance)


IMAGES = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
NORMALISED = ("data.mean=0.3", "data.std=0.2")


@pytest.mark.slow
def test_onnx_runtime_equals_pytorch_for_any_batch(make_saved):
    folder = make_saved("model=vitbn", *NORMALISED)
    file, network = exported(folder, "onnx"), load_network(folder)
    session = onnxruntime.InferenceSession(file)
    for size in (1, 2, 5):
        (logits,) = session.run(["logits"], {"images": IMAGES[:size].numpy()})
        assert_close(torch.from_numpy(logits), network, IMAGES[:size], 1e-5)
    inside = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert json.loads(inside["labels"]) == list(CLOTHES) and json.loads(inside["preprocessing"])["mean"] == [0.3]
    assert json.loads(inside["config"])["model"]["placement"]["attn_in"] == "none"
    assert str(folder.parent) not in json.dumps(inside)
    assert not list(file.parent.glob("*.data"))


def test_a_torch_program_runs_by_itself_for_any_batch(make_saved):
    folder = make_saved("model=vitbn", *NORMALISED)
    file, network = exported(folder, "torch"), load_network(folder)
    facts = {"vitbn.json": ""}
    program = torch.export.load(file, extra_files=facts).module()
    for size in (1, 2, 5):
        assert_close(program(IMAGES[:size]), network, IMAGES[:size], 1e-5)
    assert json.loads(facts["vitbn.json"])["labels"] == list(CLOTHES)


@pytest.mark.parametrize("model", ["vitbn", "vitbnffn", "vit"])
def test_safetensors_come_back_as_a_network(make_saved, clothes, model):
    folder = make_saved(f"model={model}", *NORMALISED)
    original = load_network(folder)
    network = load_network(exported(folder, "safetensors"))
    assert (network.labels, network.mean, network.std) == (original.labels, original.mean, original.std)
    assert (network.image_size, network.channels) == (28, 1) and not network.net.training
    assert not any(isinstance(module, TokenBatchNorm) for module in network.net.modules())
    with torch.no_grad():
        assert_close(network.net(network.standardise(IMAGES)), original, IMAGES, 1e-5)
    again = load_network(exported(network.source.parent, "safetensors", "--ckpt", network.source, "--root", clothes))
    assert all(torch.equal(a, b) for a, b in zip(network.net.parameters(), again.net.parameters(), strict=True))


def test_without_folding_the_weights_are_the_runs(make_saved):
    folder = make_saved("model=vitbn")
    original, network = load_network(folder), load_network(exported(folder, "safetensors", "--no-fold"))
    state = original.net.state_dict()
    assert {**network.config["model"], "pretrained": None} == original.config["model"]
    assert network.config["lr"] == 0.003 and "root" not in network.config["data"] and "runs" not in network.config
    assert all(torch.equal(state[name], value) for name, value in network.net.state_dict().items())


def test_the_card_says_what_it_is_and_how_good(make_saved, clothes):
    folder = make_saved("model=vitbnffn")
    file = exported(folder, "safetensors")
    text = file.with_name(f"{file.name}.md").read_text()
    network, test = load_network(folder), load("fashion_mnist", clothes).test
    with torch.no_grad():
        accuracy = (network.net(network.normalise(test.images)).argmax(1) == test.labels).float().mean().item()
    for words in (f"| accuracy | {accuracy:.2%} |", "n = 100", "T-shirt/top, trouser", "lr=0.003, seed=0", "torch 2",
                  "| ffn_hidden | batch | 1 | `fc1` | scales its outputs |",
                  "| final | layer | 1 | stays | its mean and variance depend on every input |"):  # fmt: skip
        assert words in text
    assert "Nothing was folded" in (exported_card(folder, "--no-fold"))


@pytest.mark.parametrize("opset", [None, 17, 18])
@pytest.mark.slow
def test_the_onnx_file_quantizes_as_it_is_and_needs_what_the_card_says(make_saved, tmp_path, opset):
    from onnxruntime.quantization import quantize_dynamic

    file = exported(make_saved("model=vitbnffn"), "onnx", *(["--opset", opset] if opset else []))
    quantize_dynamic(file, tmp_path / "q.onnx")
    assert (tmp_path / "q.onnx").stat().st_size < file.stat().st_size
    model, card = onnx.load(file), file.with_name(f"{file.name}.md").read_text()
    assert [entry.version for entry in model.opset_import if not entry.domain] == [opset or 20]
    runtime, ir = {None: ("1.17", 9), 17: ("1.12", 8), 18: ("1.14", 8)}[opset]
    assert f"opset {opset or 20}, for ONNX Runtime {runtime} or newer" in card and model.ir_version == ir


@pytest.mark.parametrize("words", [("onnx", 16), ("safetensors", 18)])
def test_an_opset_that_cannot_be_had_is_named(make_saved, words, capsys):
    form, opset = words
    arguments = ["export", "--ckpt", str(make_saved("model=vit")), "--format", form, "--opset", str(opset)]
    assert main(arguments) == 2
    assert f"--opset {opset}: only with --format onnx, and one of 17, 18, 19, 20" in capsys.readouterr().err


def test_the_card_of_a_network_without_slots_and_of_names_with_markup(make_saved):
    from vitbn.inference.metrics import ClassScore, Scores
    from vitbn.inference.model_card import model_card

    network = load_network(make_saved("model=vit"))
    network = replace(network, net=torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)))
    model = {"name": "resnet34", "published": {"image_size": 224}}
    config = {**network.config, "model": model, "data": {"name": "a|b", "source": "folder", "holdout": 30}}
    scores = Scores(3, 1.0, 0.0, 0.0, (ClassScore("a|<b>\nc", 3, 1.0, 1.0, None),))
    text = model_card(Path("net.safetensors"), config, network, "a|b", scores, (), None, 0.0)
    assert "2 BatchNorm2d" in text and "holdout=30" in text and "optimizer=Adam" in text
    assert r"| a\|\<b\> c | 3 |" in text and "clean images of" in text and "published" not in text


def exported_card(folder, *words):
    file = exported(folder, "safetensors", *words)
    return file.with_name(f"{file.name}.md").read_text()


def test_a_file_is_compared_with_the_network_over_all_images(make_saved, clothes):
    network, split = load_network(make_saved("model=vit", *NORMALISED)), load("fashion_mnist", clothes).train
    split = split[torch.arange(1_200) % 300]
    form = export.FORMATS["safetensors"]
    assert export.written_difference(network, form.write(network), form, split) == 0
    parts = []

    def run(part):
        parts.append(part)
        return network.net(network.standardise(part)) + (len(parts) == 2)

    assert export.written_difference(network, b"", replace(form, run=lambda *_: run), split) == 1
    assert [part.max() <= 1 for part in parts] == [True, True]


def test_bad_input_is_one_line(make_saved, tmp_path, monkeypatch, capsys):
    folder = make_saved("model=vitbn")

    def refused(*words):
        assert main(["export", *map(str, words)]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        return line

    assert "does not exist" in refused("--ckpt", tmp_path / "nowhere", "--format", "torch")
    wrong = refused("--ckpt", folder, "--format", "onnx", "--out", tmp_path / "a.pt2")
    assert "a.pt2: a file of --format onnx ends in .onnx" in wrong
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else True)
    missing = refused("--ckpt", folder, "--format", "onnx")
    assert "--format onnx: needs onnxscript; pip install 'vitbn[export]'" in missing
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-100])
    assert "no whole checkpoint" in refused("--ckpt", folder, "--format", "torch")
    with pytest.raises(SystemExit):
        main(["export", "--ckpt", "x", "--format", "tf"])
    assert "choose from" in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown format 'tf'; choose from safetensors, onnx, torch"):
        export.format_named("tf")


def test_bad_safetensors_are_one_line(make_saved, tmp_path):
    good = exported(make_saved("model=vitbn"), "safetensors")
    with safe_open(good, "pt") as content:
        metadata = content.metadata()
    state, file = load_file(good), tmp_path / "x.safetensors"

    def refused(words):
        with pytest.raises(InputError, match=words) as error:
            load_network(file)
        assert "\n" not in str(error.value)

    file.write_bytes(good.read_bytes()[:-50])
    refused("x.safetensors: damaged, or no safetensors file")
    file.write_bytes(b"")
    refused("x.safetensors: damaged, or no safetensors file")
    save_file(state, file, {"vitbn": '{"labels": []}'})
    refused("x.safetensors: what it says about itself cannot be read: 'mean' is missing")
    save_file({name: value for name, value in state.items() if name != "head.bias"}, file, metadata)
    refused("does not fit the network that it is described as; missing: head.bias")
    said = json.loads(metadata["vitbn"])
    said["config"]["model"]["_target_"] = "os.system"
    save_file(state, file, {"vitbn": json.dumps(said)})
    refused("os.system is not a network of vitbn")


def test_half_precision_halves_the_file_and_reports_the_network_it_holds(make_saved, capsys):
    folder = make_saved("model=vitbnffn", *NORMALISED)
    whole = exported(folder, "safetensors").read_bytes()
    file = exported(folder, "safetensors", "--half")
    assert len(file.read_bytes()) < 0.7 * len(whole)  # the network is so small that names and settings take their share
    read, expected = load_network(file), load_network(folder)
    for value in filter(torch.is_floating_point, read.net.state_dict().values()):
        assert value.dtype == torch.float32 and torch.equal(value, value.half().float())
    assert_close(read.net(read.standardise(IMAGES)), expected, IMAGES, 5e-3)
    assert "kept in half precision" in file.with_name(f"{file.name}.md").read_text()
    assert main(["export", "--ckpt", str(folder), "--format", "onnx", "--half"]) == 2
    assert "--half: only with --format safetensors" in capsys.readouterr().err
