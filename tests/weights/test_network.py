import pickle

import pytest
import torch
import yaml

from vitbn.data.batches import Preprocess
from vitbn.data.mnist import CLOTHES
from vitbn.errors import InputError
from vitbn.store.checkpoint_file import seal
from vitbn.training.outcome import attempt
from vitbn.training.train import train
from vitbn.weights.network import load_network


@pytest.fixture
def run(make_run):
    run = make_run("epochs=1", "data.mean=0.3", "data.std=0.2", "model=vitbnffn")
    assert attempt(run, train)["status"] == "done"
    return run


def test_a_run_is_loaded_with_all_it_takes_to_use_it(run, clothes):
    from vitbn.data.sources import load

    network = load_network(run.folder)
    assert not network.net.training and network.labels == CLOTHES and network.config == run.config
    assert (network.image_size, network.channels, network.mean, network.std) == (28, 1, (0.3,), (0.2,))
    assert network.source == run.checkpoints / "last.ckpt"
    test = load("fashion_mnist", clothes).test
    inputs = network.normalise(test.images)
    assert torch.equal(inputs, Preprocess(0.3, 0.2)(test.images, None))
    with torch.no_grad():
        accuracy = (network.net(inputs).argmax(1) == test.labels).float().mean()
    assert accuracy.item() == pytest.approx(run.result()["metrics"]["test/acc"], abs=1e-6)
    saved = torch.load(network.source, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[f"net.{name}"], value) for name, value in network.net.state_dict().items())


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
    refuse(stray, "there is no config.yaml beside it")
    last = run.checkpoints / "last.ckpt"
    whole = last.read_bytes()
    last.write_bytes(pickle.dumps({"state_dict": Code()}, protocol=2))
    refuse(last, "last.ckpt: refused, not a checkpoint")
    assert "executed" not in capsys.readouterr().out
    torch.save({"weights": {}}, last)
    last.write_bytes(seal(last.read_bytes()))
    refuse(last, "last.ckpt: not a checkpoint of a run")
    last.write_bytes(whole)
    config = {**run.config, "model": {**run.config["model"], "dim": 18, "depth": 2}}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config))
    shape = r"last.ckpt: does not fit the network that it is described as; missing: blocks\.1.*shape: .*head\.weight"
    refuse(last, shape + r" \(10, 16\) for \(10, 18\)")
    for path in run.checkpoints.glob("*"):
        path.unlink()
    refuse(run.folder, "no whole checkpoint.*train it first")


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
