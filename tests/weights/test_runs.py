import os
import pickle

import pytest
import torch
import yaml

from vitbn.errors import InputError
from vitbn.store.checkpoint_file import add_checksum, load, save
from vitbn.weights.network import load_network
from vitbn.weights.runs import read_run_weights


def test_a_checkpoint_file_and_a_damaged_newest_one(run):
    best = load_network(run.checkpoints / "best.ckpt")
    assert best.source.name == "best.ckpt" and best.config == run.config
    last = run.checkpoints / "last.ckpt"
    (run.checkpoints / "previous.ckpt").write_bytes(last.read_bytes())
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert load_network(run.folder).source.name == "previous.ckpt"
    with pytest.raises(InputError, match="last.ckpt: .*(damaged|not a checkpoint)"):
        load_network(last)


class Code:
    def __reduce__(self):
        return print, ("executed",)


def refuse(path, words):
    with pytest.raises(InputError, match=words) as refused:
        load_network(path)
    assert "\n" not in str(refused.value)


def test_bad_checkpoints_are_one_line(run, capsys, tmp_path):
    refuse(tmp_path / "nowhere", "nowhere: does not exist")
    refuse(tmp_path, r"neither a run \(config.yaml\) nor weights \(model.safetensors\)")
    stray = tmp_path / "stray.ckpt"
    stray.write_bytes(b"")
    refuse(stray, "stray.ckpt: refused, not a checkpoint")
    stray.write_bytes(add_checksum(b""))
    refuse(stray, "there is no config.yaml beside it")
    last = run.checkpoints / "last.ckpt"
    whole = last.read_bytes()
    last.write_bytes(pickle.dumps({"state_dict": Code()}, protocol=2))
    refuse(last, "last.ckpt: refused, not a checkpoint")
    assert "executed" not in capsys.readouterr().out
    torch.save({"weights": {}}, last)
    last.write_bytes(add_checksum(last.read_bytes()))
    refuse(last, "last.ckpt: not a checkpoint of a run")
    last.write_bytes(whole)
    config = {**run.config, "model": {**run.config["model"], "dim": 18, "depth": 2}}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config))
    shape = r"last.ckpt: does not fit the network that it is described as; missing: blocks\.1.*shape: blocks\.0"
    refuse(last, shape + r"\.attention\.to_out\.bias \(16,\) for \(18,\) and 16 more")
    for path in run.checkpoints.glob("*"):
        path.unlink()
    refuse(run.folder, "its checkpoints were not kept .*; train it with rerun=true")


def test_a_configuration_cannot_call_what_is_no_network(run):
    for target in ("os.system", "pathlib.Path", "vitbn.store.atomic.write_text", "no.such.thing", "torch.nn.Identity"):
        model = {**run.config["model"], "_target_": target}
        (run.folder / "config.yaml").write_text(yaml.safe_dump({**run.config, "model": model}))
        refuse(run.folder, f"config.yaml: .*{target} is not a network of vitbn")
    model = {**run.config["model"], "dim": {"_target_": "os.system"}}
    (run.folder / "config.yaml").write_text(yaml.safe_dump({**run.config, "model": model}))
    refuse(run.folder, "config.yaml: .*dim={'_target_': 'os.system'}: must be a whole number")


def test_another_config_yaml_is_named(run):
    for text in ("", "- 1", "model: {}", "model: 1\ndata: {}"):
        (run.folder / "config.yaml").write_text(text)
        refuse(run.folder, "config.yaml: not the config.yaml of a run")
    (run.folder / "config.yaml").write_text("{")
    refuse(run.folder, "config.yaml: not YAML")
    (run.folder / "config.yaml").write_text("model: {}\ndata: {}")
    refuse(run.folder, "config.yaml: what it says about itself cannot be read: 'name' is missing")


@pytest.mark.parametrize("name", ["recalibrate_bn", "PreciseStatistics"])
def test_statistics_of_the_last_validation_replace_the_running_ones(make_saved, name):
    folder = make_saved("model=vitbnffn")
    last = folder / "checkpoints" / "last.ckpt"
    norm = "blocks.0.ffn.hidden_norm"
    mean, var = torch.arange(24.0), torch.arange(24.0) + 1
    before = read_run_weights(folder).state
    save(load(last) | {"callbacks": {name: {"used": {norm: [mean, var]}}}}, last)
    after = read_run_weights(folder).state
    assert torch.equal(after[f"{norm}.running_mean"], mean) and torch.equal(after[f"{norm}.running_var"], var)
    assert [key for key in before if not torch.equal(before[key], after[key])] == [
        f"{norm}.running_mean",
        f"{norm}.running_var",
    ]


def test_nobody_waits_for_a_fifo(make_saved):
    folder = make_saved()
    last = folder / "checkpoints" / "last.ckpt"
    last.unlink()
    os.mkfifo(last)
    refuse(folder, "no whole checkpoint")
    refuse(last, "last.ckpt: not a regular file")


@pytest.mark.parametrize("content", [
    {"state_dict": {"net.head.bias": 1}}, {"state_dict": {1: torch.zeros(1)}},
    {"state_dict": {}, "ImageData": {"classes": [1] * 10}}, {"state_dict": {}, "ImageData": {"classes": ["a"]}},
    {"state_dict": {}, "callbacks": []}, {"state_dict": {}, "callbacks": {"recalibrate_bn": {"used": {"head": 1}}}},
])  # fmt: skip
def test_a_checkpoint_that_fits_nothing_is_one_line(make_saved, content):
    folder = make_saved()
    save(content, folder / "checkpoints" / "last.ckpt")
    refuse(folder, r"last\.ckpt: what it says about itself cannot be read: ")
