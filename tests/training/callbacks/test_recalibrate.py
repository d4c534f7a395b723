"""`recalibrate_bn=true`: what is evaluated changes, what is trained does not."""

import pytest
import torch

from vitbn.data.datamodule import ImageData
from vitbn.models.bn_statistics import batch_norms, estimate_bn_stats, load_bn_stats
from vitbn.store.run import config_hash
from vitbn.training.callbacks import recalibrate
from vitbn.training.outcome import attempt
from vitbn.training.train import train
from vitbn.weights.network import load_network

OPTIONS = ("model=vitbn", "checkpoint.every_minutes=1e-9", "recalibrate_bn=true")


def trained(run):
    assert attempt(run, train)["status"] == "done"
    return run


def test_the_key_is_off_and_then_leaves_the_identity_alone(make_run):
    config = make_run("model=vitbn").config
    assert config["recalibrate_bn"] is False
    assert config_hash(config) == config_hash({k: v for k, v in config.items() if k != "recalibrate_bn"})
    assert config_hash(config) != config_hash(make_run(*OPTIONS).config)


@pytest.mark.slow
def test_training_goes_the_same_way_and_only_the_evaluation_differs(make_run):
    off, on = (trained(make_run(*OPTIONS[:2], f"recalibrate_bn={flag}")) for flag in ("false", "true"))
    weights = [torch.load(run.checkpoints / "last.ckpt", weights_only=True)["state_dict"] for run in (off, on)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert off.result()["metrics"]["train/loss"] == on.result()["metrics"]["train/loss"]
    assert off.result()["metrics"]["val/loss"] != on.result()["metrics"]["val/loss"]


def test_the_figures_are_those_of_the_statistics_measured_directly(make_run, clothes, monkeypatch):
    monkeypatch.setattr(recalibrate, "CALIBRATION_BATCH", 128)
    run = trained(make_run(*OPTIONS))
    data = ImageData(
        name="fashion_mnist", root=str(clothes), augment=True, mean=0.0, std=1.0, holdout=0, batch_size=128,
        val_batch_size=5000, seed=0,
    )  # fmt: skip
    network = load_network(run.folder)
    kept = {name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in
            batch_norms(network.net).items()}  # fmt: skip
    batches = [batch.images for batch in data.train_dataloader()]
    fresh = estimate_bn_stats(network.net, batches[:2])  # the third of 300 images would not be whole
    for name, (mean, var) in fresh.items():  # what load_network takes is what the evaluation used
        torch.testing.assert_close(kept[name][0].double(), mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(kept[name][1].double(), var, rtol=1e-5, atol=1e-5)
    load_bn_stats(network.net, fresh)
    batch = next(iter(data.val_dataloader()))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(network.net(batch.images), batch.labels).item()
    assert loss == pytest.approx(run.result()["metrics"]["val/loss"], abs=1e-5)


def test_a_checkpoint_in_mid_epoch_has_no_statistics_of_other_weights(make_run):
    run = trained(make_run(*OPTIONS))
    used = [torch.load(run.checkpoints / f"{name}.ckpt", weights_only=True)["callbacks"]["recalibrate_bn"]["used"]
            for name in ("last", "previous")]  # fmt: skip
    assert used[0] and used[1] == {}
