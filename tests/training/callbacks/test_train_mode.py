"""The accuracy of a network left in training mode."""

import pytest
import torch
from torch.nn import functional as F

from vitbn.data.datamodule import ImageData
from vitbn.models.factory import build
from vitbn.training.callbacks.train_mode import training_mode
from vitbn.training.outcome import attempt
from vitbn.training.train import train


def finished(run):
    """Metrics and weights of the trained run."""
    metrics = attempt(run, train)["metrics"]
    return metrics, torch.load(run.checkpoints / "last.ckpt", weights_only=True)["state_dict"]


def test_nothing_else_that_is_measured_changes(make_run):
    options = ("model=vitbnffn", "model.dropout=0.2", "epochs=1")
    plain, measured = (finished(make_run(*options, f"test_train_mode={flag}")) for flag in ("false", "true"))
    assert "test/acc_train_mode" not in plain[0]
    assert {k: v for k, v in measured[0].items() if k != "test/acc_train_mode"} == plain[0]
    assert all(torch.equal(measured[1][name], plain[1][name]) for name in plain[1])


def test_the_accuracy_is_that_of_each_test_batchs_statistics(make_run):
    run = make_run("model=vitbn", "epochs=1", "test_train_mode=true", "val_batch_size=40")
    metrics, weights = finished(run)
    net = build(run.config["model"], seed=0)
    net.load_state_dict({k.removeprefix("net."): v for k, v in weights.items() if k.startswith("net.")})
    net.train()
    correct = [(net(x).argmax(1) == labels).sum().item() for x, labels in ImageData.of(run.config).test_dataloader()]
    assert metrics["test/acc_train_mode"] == pytest.approx(sum(correct) / 100)
    assert metrics["test/acc_train_mode"] != metrics["test/acc"]


def test_training_mode_leaves_no_trace():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)).eval()
    before, x = {k: v.clone() for k, v in net.state_dict().items()}, torch.randn(8, 4)
    with training_mode(net), torch.no_grad():
        out = net(x)
    torch.testing.assert_close(out, F.batch_norm(net[0](x), None, None, training=True))
    assert not net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
