"""A run from its configuration to what it leaves on disk."""

import csv
import json
import math
from contextlib import nullcontext

import pytest
import torch
import yaml
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vitbn.errors import InputError
from vitbn.models.mlp import MLP
from vitbn.training.outcome import Signals, attempt
from vitbn.training.train import require_samples, train


def trained(run):
    return attempt(run, train)


def metrics(run):
    rows = list(csv.DictReader((run.folder / "metrics.csv").open()))
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_a_run_leaves_what_is_promised(make_run):
    run = make_run("model=vitbnffn")
    trained(run)
    names = {path.name for path in run.folder.iterdir()}
    assert {"config.yaml", "metrics.csv", "result.json", "checkpoints"} < names
    assert yaml.safe_load((run.folder / "config.yaml").read_text()) == run.config
    rows = metrics(run)
    assert list(rows[0]) == ["epoch", "train/loss", "train/acc", "val/loss", "val/acc", "lr", "gradient norm"]
    assert [row["epoch"] for row in rows] == ["1", "2"] and {row["lr"] for row in rows} == {"0.003"}
    result = json.loads((run.folder / "result.json").read_text())
    assert result["status"] == "done" and result["epochs"] == 2 and result["error"] is None
    assert result["config_hash"] == run.id[-8:] and result["seconds"] > 0
    last = {name: float(value) for name, value in rows[-1].items()}
    assert {name: result["metrics"][name] for name in ("val/loss", "val/acc")} == {
        n: last[n] for n in ("val/loss", "val/acc")
    }
    assert sum(map(sum, result["confusion"])) == 100
    correct = sum(result["confusion"][i][i] for i in range(10))
    assert result["metrics"]["test/acc"] == pytest.approx(correct / 100)
    assert result["fingerprint"]["parameters"] > 1000 and len(result["fingerprint"]["weights"]) > 10
    last_ckpt = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    assert any(name.startswith("net.") for name in last_ckpt["state_dict"]) and last_ckpt["global_step"] == 12
    assert (run.folder / "checkpoints" / "best.ckpt").exists()


def test_tensorboard_shows_curves_images_confusion_and_hparams(make_run):
    run = make_run()
    trained(run)
    events = EventAccumulator(str(run.folder))
    events.Reload()
    tags = events.Tags()
    expected = {"train/loss", "train/acc", "val/loss", "val/acc", "test/acc", "lr", "gradient norm"}
    assert expected <= set(tags["scalars"])
    assert {"augmented training images", "test confusion"} <= set(tags["images"])
    assert [e.value for e in events.Scalars("val/acc")] == [pytest.approx(float(r["val/acc"])) for r in metrics(run)]
    hparams = events.summary_metadata
    assert any(name.startswith("_hparams_") for name in hparams)


TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}
SLURM = {"JOB_ID": "7", "JOB_NAME": "seeds", "NTASKS": "4", "NTASKS_PER_NODE": "4", "NNODES": "1"}
TASK = {f"SLURM_{name}": value for name, value in {**SLURM, "PROCID": "1", "LOCALID": "1", "NODEID": "0"}.items()}
MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1", "PMI_SIZE": "2"}


@pytest.mark.parametrize("variables", [TORCHRUN, TASK, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, MPI])
def test_a_run_is_all_of_its_processes_whatever_launcher_started_this_one(make_run, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # what Lightning's import makes of a variable
    run = make_run("epochs=1", "logger=[tensorboard,csv]")
    assert trained(run)["status"] == "done" and len(metrics(run)) == 1
    assert [*run.folder.glob("events.out.tfevents.*")] and [*run.folder.glob("csv/*/metrics.csv")]


def test_the_same_configuration_gives_the_same_numbers(make_run, tmp_path):
    a, b, other = make_run("study=a"), make_run("study=b"), make_run("study=a", "seed=1")
    for run in (a, b, other):
        trained(run)
    assert a.id == b.id and metrics(a) == metrics(b) != metrics(other)
    weights = [torch.load(run.checkpoints / "last.ckpt", weights_only=True)["state_dict"] for run in (a, b)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_paired_arms_share_order_validation_and_common_weights(make_run):
    prints = [train_print(make_run(f"model={m}", "epochs=1")) for m in ("vit", "vitbnffn")]
    assert prints[0]["order"] == prints[1]["order"] and prints[0]["val"] == prints[1]["val"]
    common = prints[0]["weights"].keys() & prints[1]["weights"].keys()
    assert len(common) > 10 and all(prints[0]["weights"][n] == prints[1]["weights"][n] for n in common)
    assert prints[0]["init"] != prints[1]["init"]


def train_print(run):
    return trained(run)["fingerprint"]


def test_training_learns_the_made_up_classes(make_run):
    """The classes are told by a bright row: 20 epochs of clean images are plenty, whatever the seed."""
    result = trained(make_run("epochs=20", "data.augment=false", "lr=0.02", "batch_size=20"))
    assert result["metrics"]["test/acc"] > 0.9


@pytest.mark.parametrize(("processor", "precision"), [({"avx512_bf16": True}, "bf16-mixed"), ({}, "32-true")])
def test_what_was_done_is_recorded(make_run, monkeypatch, caplog, processor, precision):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: processor, raising=False)
    result = trained(make_run("epochs=1", "matmul_precision=medium", "trainer.precision=bf16-mixed"))
    assert (result["matmul_precision"], result["precision"]) == ("medium", precision)
    assert torch.get_float32_matmul_precision() == "highest"
    line = "trainer.precision=bf16-mixed: this processor has no products of bfloat16; computed in float32"
    assert caplog.messages.count(line) == (not processor)


def test_threads_are_set_for_the_run_and_recorded(make_run):
    run = make_run("epochs=1", "threads=2")
    assert trained(run)["hardware"].endswith(", 2 threads") and torch.get_num_threads() == 1
    assert run.id == make_run("epochs=1").id


@pytest.mark.parametrize("option", ["trainer.precision=bf16-mixed", "model.dropout=0.1", "norm.qk=batch_scalar"])
def test_options_train(make_run, option):
    assert math.isfinite(trained(make_run("epochs=1", option))["metrics"]["val/loss"])


@pytest.mark.slow
def test_a_compiled_network_trains_to_the_same_numbers(make_run, monkeypatch):
    """Graph capture and autograd are compiled for real; only the minutes of code generation are left out."""
    compile_fully = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compile_fully(net, backend="aot_eager"))
    plain, compiled = (trained(make_run("epochs=1", f"compile={flag}"))["metrics"] for flag in ("false", "true"))
    assert compiled == pytest.approx(plain, abs=1e-4)


def test_gpu_without_a_gpu_is_one_clear_line(make_run):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="trainer.accelerator=gpu: no GPU here.*trainer=cpu"):
        train(make_run("trainer=gpu"), Signals())


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [(("norm=vit_power", "batch_size=299", "model.patch_size=28"), "the last step of 300 images has"),
     (("norm=vitbn", "batch_size=1", "model.patch_size=28"), "every step has")],
)  # fmt: skip
def test_a_batchnorm_of_one_sample_is_refused_before_training(make_run, overrides, steps):
    run = make_run(*overrides)
    result = attempt(run, train)
    assert result["status"] == "failed" and result["error"].endswith(
        f"{steps} one image, one sample for a BatchNorm; choose another size"
    )


def test_one_image_has_many_tokens(make_run):
    assert attempt(make_run("norm=vitbn", "batch_size=299", "epochs=1"), train)["status"] == "done"


@pytest.mark.parametrize(("norm", "size", "devices", "synced", "said"), [
    ("batch", 299, 1, True, "the last step of 300 images has one image,"),
    ("batch", 299, 2, True, "the last step of 300 images has one image,"),
    ("batch", 298, 2, False, "the last step of 300 images has 2 images, one of them alone,"),
    ("batch", 298, 2, True, None),
    ({"kind": "ghost_batch", "virtual": 25}, 26, 1, True, "every step has 26 images, one of them alone,"),
    ({"kind": "ghost_batch", "virtual": 25}, 52, 2, True, "every step has 52 images, one of them alone,"),
    ({"kind": "ghost_batch", "virtual": 25}, 50, 2, True, None),
    ("layer", 299, 1, True, None),
])  # fmt: skip
def test_no_norm_over_the_batch_sees_one_sample(norm, size, devices, synced, said):
    net = MLP(image_size=4, channels=1, num_classes=2, hidden=[3], activation="relu", norm=norm)
    cfg = {"batch_size": size, "data": {"channels": 1, "image_size": 4}}
    cfg["trainer"] = {"devices": devices, "sync_batchnorm": synced}
    with pytest.raises(InputError, match=f"batch_size={size}: {said}") if said else nullcontext():
        require_samples(net, cfg, 300)


def test_neither_does_one_that_is_tested_in_training_mode():
    net = MLP(image_size=4, channels=1, num_classes=2, hidden=[3], activation="relu", norm="batch")
    cfg = {"batch_size": 50, "val_batch_size": 299, "data": {"channels": 1, "image_size": 4}}
    cfg["trainer"] = {"devices": 1, "sync_batchnorm": True}
    with pytest.raises(InputError, match="^val_batch_size=299: the last step of 300 images has one image"):
        require_samples(net, cfg, 300, size_key="val_batch_size")


def test_a_plateau_is_judged_where_it_is_validated(make_run):
    """A loss that never improves by as much as is asked for: the rate falls after every validation."""
    shrinks = ("schedule=plateau", "schedule.patience=0", "+schedule.threshold=9", "schedule.factor=0.5")
    run = make_run(*shrinks, "trainer.check_val_every_n_epoch=2", "epochs=5")
    assert trained(run)["status"] == "done"
    assert [float(row["lr"]) for row in metrics(run)] == [0.003, 0.003, 0.0015, 0.0015, 0.00075]
