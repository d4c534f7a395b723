"""Instruments: what they measure in a run, and that the run is the one it would be without them."""

import csv
import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from tests import foreign
from vitbn.config.checks import check
from vitbn.config.compose import compose_config, to_plain_dict
from vitbn.data.datamodule import ImageData
from vitbn.errors import InputError
from vitbn.models.factory import build
from vitbn.models.sites import sites
from vitbn.store.run import Run, config_hash
from vitbn.training.callbacks.instruments import Instruments, MeasuredStep
from vitbn.training.measurements import layer_of
from vitbn.training.outcome import attempt
from vitbn.training.train import train

STEPS = 6  # per epoch: 300 images, batch 50
ON = (
    "callbacks=instruments",
    "callbacks.instruments.every_n_steps=4",
    "callbacks.instruments.sharpness_every_n_steps=1",
)
OPTIONS = ("model=vitbnffn", "model.dropout=0.1", "log_every=4", "checkpoint.every_minutes=1e-9")


def measured(run):
    """(step, layer, slot, name) -> value."""
    with (run.folder / "instruments.csv").open() as file:
        lines = list(csv.DictReader(file))
    found = {(int(r["step"]), r["layer"], r["slot"], r["name"]): float(r["value"]) for r in lines}
    assert len(found) == len(lines), "a row is there twice"
    return found


def steps(run):
    return sorted({step for step, *_ in measured(run)})


def finished(run):
    assert attempt(run, train)["status"] == "done"
    return run


@pytest.mark.parametrize("options", [(), ("mixup=0.5", "norm.qk=batch", "trainer.accumulate_grad_batches=2")])
def test_the_run_is_the_one_without_them(make_run, outcome, undisturbed, options):
    run = make_run(*OPTIONS, *options, *ON)
    assert config_hash(run.config) == config_hash(make_run(*OPTIONS, *options).config)
    assert outcome(finished(run)) == undisturbed(make_run, *OPTIONS, *options)


@pytest.mark.parametrize("killed_at", [3, STEPS + 3])
def test_after_an_interruption_the_file_goes_on(make_run, kill, outcome, undisturbed, killed_at):
    whole = finished(make_run(*OPTIONS, *ON, "study=whole"))
    run = make_run(*OPTIONS, *ON, "study=killed")
    kill(run, "on_train_batch_start", killed_at)
    with (run.folder / "instruments.csv").open("a") as file:
        file.write("99,9,half")
    assert outcome(finished(run)) == undisturbed(make_run, *OPTIONS)
    texts = [(r.folder / "instruments.csv").read_text() for r in (whole, run)]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_a_run_goes_on_without_them_and_a_repeated_one_removes_the_file(make_run, kill, outcome, undisturbed):
    run = make_run(*OPTIONS, *ON)
    kill(run, "on_train_batch_start", STEPS + 3)
    without = make_run(*OPTIONS)
    assert outcome(finished(without)) == undisturbed(make_run, *OPTIONS)
    assert (run.folder / "instruments.csv").exists()
    finished(make_run(*OPTIONS, "rerun=true"))
    assert not (run.folder / "instruments.csv").exists()


@pytest.mark.slow
def test_the_steps_that_are_measured(make_run):
    """The first, every fourth and the last but one of an epoch of six steps, or the last of three of two batches."""
    assert steps(finished(make_run(*ON))) == [1, 4, 5, 8, 11, 12]
    assert steps(finished(make_run(*ON, "trainer.accumulate_grad_batches=4"))) == [1, 3, 4]
    assert steps(finished(make_run(*ON, "trainer.limit_train_batches=1"))) == [1, 2]
    rare = finished(make_run(*ON, "callbacks.instruments.sharpness_every_n_steps=20", "epochs=5", "study=rare"))
    assert [step for step, *_, name in measured(rare) if name == "sharpness"] == [5, 29]


@pytest.fixture
def first_step(make_run):
    """A run of two steps, its network before the first of them, and that step's batch."""
    run = make_run("model=vitbn", "depth=2", "norm.final=layer", "epochs=1",
                   "trainer.limit_train_batches=2", "optimizer=sgd", "lr=0.1", *ON)  # fmt: skip
    data = ImageData.of(run.config)
    data.setup("fit")
    return finished(run), build(run.config["model"], seed=0).double(), next(iter(data.train_dataloader()))


def test_activations_gaps_and_attention_of_the_first_step(first_step):
    run, net, batch = first_step
    found, images = measured(run), batch.images.double()
    with torch.no_grad():
        x = net.embedding(images)
        block = net.blocks[0]
        u = block.attn_in(x)
        middle = x + block.attention(u)
        hidden = block.ffn.fc1(middle)
        last = block(x)
    for slot, passing in (("attn_in", x), ("ffn_in", middle), ("ffn_hidden", hidden)):
        assert found[1, "blocks.0", slot, "mean"] == pytest.approx(passing.mean().item(), rel=1e-4)
        assert found[1, "blocks.0", slot, "variance"] == pytest.approx(passing.var(correction=0).item(), rel=1e-4)
    mean, std = hidden.flatten(0, 1).mean(0), hidden.flatten(0, 1).std(0)
    root = math.sqrt(24)  # |sigma| of 24 fresh running variances
    assert found[1, "blocks.0", "ffn_hidden", "mean gap"] == pytest.approx(mean.norm().item() / root, rel=1e-4)
    assert found[1, "blocks.0", "ffn_hidden", "deviation gap"] == pytest.approx(
        (std - 1).norm().item() / root, rel=1e-4
    )
    weights = block.attention.weights(u[:16])
    entropy = -(weights * weights.log()).sum(-1).mean().item() / math.log(17)
    assert found[1, "blocks.0", "", "attention entropy"] == pytest.approx(entropy, rel=1e-4)
    with torch.no_grad():
        u = net.blocks[1].attn_in(last)
        weights = net.blocks[1].attention.weights(u[:16, :1], u[:16])  # nothing reads the other queries
    entropy = -(weights * weights.log()).sum(-1).mean().item() / math.log(17)
    assert net.blocks[1].ffn_out.training and (1, "final_norm", "final", "mean gap") not in found
    assert found[1, "blocks.1", "", "attention entropy"] > 0


def test_gradients_and_updates_of_the_first_step(first_step):
    run, net, batch = first_step
    found = measured(run)
    F.cross_entropy(net(batch.images.double()), batch.labels).backward()
    block = dict(net.blocks[1].named_parameters())

    def norm(tensors):
        return torch.cat([tensor.flatten() for tensor in tensors]).norm().item()

    groups = {"": block, "weights": {n: p for n, p in block.items() if p.ndim > 1},
              "others": {n: p for n, p in block.items() if p.ndim == 1}}  # fmt: skip
    for group, members in groups.items():
        gradient, weight = norm([p.grad for p in members.values()]), norm([p.detach() for p in members.values()])
        assert found[1, "blocks.1", group, "gradient norm"] == pytest.approx(gradient, rel=1e-4)
        assert found[1, "blocks.1", group, "update ratio"] == pytest.approx(0.1 * gradient / weight, rel=1e-4)
    step_of_sgd = [0.01 * p.grad / norm([q.grad for q in net.parameters()]) for p in net.parameters()]
    losses = []
    for sign in (-1, 0, 1):
        moved = build(run.config["model"], seed=0).double()
        with torch.no_grad():
            for parameter, change in zip(moved.parameters(), step_of_sgd, strict=True):
                parameter += sign * change
            losses.append(F.cross_entropy(moved(batch.images.double()), batch.labels).item())
    assert found[1, "", "", "sharpness"] == pytest.approx((losses[0] - 2 * losses[1] + losses[2]) / 1e-4, rel=1e-2)


def test_a_network_without_slots_has_its_batchnorms_gradients_and_sharpness(tmp_path, clothes):
    options = ["data=fashion_mnist", f"data.root={clothes}", "trainer=cpu", f"runs={tmp_path}", "epochs=1"]
    run = finished(Run(to_plain_dict(compose_config([*options, *ON, "model=mlp_bn", "batch_size=50"]))))
    found = measured(run)
    kinds = {name for *_, name in found}
    assert kinds == {"mean", "variance", "mean gap", "deviation gap", "gradient norm", "update ratio", "sharpness"}
    assert (1, "norm1", "", "mean gap") in found and (1, "head", "", "gradient norm") in found


@pytest.mark.parametrize("options", [("trainer.precision=bf16-mixed",), ("trainer.precision=bf16-true",),
                                     ("norm.qk=layer",), ("pool=mean", "callbacks=[instruments,ema]")])  # fmt: skip
@pytest.mark.slow
def test_other_ways_to_train(make_run, options):
    found = measured(finished(make_run("model=vitbn", *ON, *options, "epochs=1")))
    assert {"attention entropy", "sharpness", "mean gap", "update ratio"} <= {name for *_, name in found}
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.slow
def test_two_processes_measure_the_whole_batch(make_run):
    options = ("model=vitbn", "epochs=1", "optimizer=sgd", "trainer.precision=64-true", *ON)
    one = measured(finished(make_run(*options)))
    two = measured(
        finished(make_run(*options, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "study=2"))
    )
    assert one.keys() == two.keys()
    for key, value in one.items():
        if key[0] == 1 and key[3] != "attention entropy" and key[2] != "qk":  # those of the first images of a process
            assert two[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_a_run_that_diverges_leaves_what_was_measured(make_run):
    run = make_run(*ON, "lr=1e30", "optimizer=sgd")
    assert attempt(run, train)["status"] == "diverged"
    assert 1 in steps(run)


def test_the_curves_stay_as_they_are_and_tensorboard_gets_a_card_per_layer(make_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = finished(make_run(*ON, "depth=2", "epochs=1"))
    events = EventAccumulator(str(run.folder))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"gradient norm/blocks.0", "update ratio/head", "attention entropy/blocks.1", "sharpness",
            "activation variance/ffn_hidden"} <= tags  # fmt: skip
    assert [event.step for event in events.Scalars("gradient norm/blocks.1")] == [1, 4, 5]
    header = (run.folder / "metrics.csv").read_text().splitlines()[0]
    assert header == "epoch,train/loss,train/acc,val/loss,val/acc,lr,seconds,gradient norm"


def test_what_cannot_be_measured_is_said_before_the_run(make_run):
    with pytest.raises(InputError, match="compile=true callbacks.instruments: .* compile=false"):
        check(make_run(*ON, "compile=true").config)
    with pytest.raises(ValueError, match="every_n_steps must be at least 1"):
        Instruments(every_n_steps=0)


@pytest.mark.parametrize("library", ["timm", "huggingface", "torchvision"])
def test_slots_of_other_libraries_networks(library):
    """What arrives at a norm of the second block, by the library's own names; the network is left as it is."""
    net, images, seen = getattr(foreign, library)(), torch.rand(4, 3, 28, 28).double(), []
    norm = [site.path for site in sites(net) if site.slot == "ffn_in"][1]
    handle = net.get_submodule(norm).register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    before, expected = set(dict(net.named_modules())), foreign.logits(net, images)
    step = MeasuredStep(SimpleNamespace(net=net), None, 0, False)
    assert torch.equal(foreign.logits(net, images), expected)
    handle.remove()
    assert set(dict(net.named_modules())) == before
    strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: tensor)
    values = step.of_slots(SimpleNamespace(world_size=1, global_rank=0, strategy=strategy))
    variance = seen[0].var(correction=0).item()
    assert values[layer_of(norm), "ffn_in", "variance"] == pytest.approx(variance, rel=1e-5)
    slots = {slot for layer, slot, _ in values if layer == layer_of(norm)}
    assert {"attn_in", "attn_out", "ffn_in", "ffn_hidden", "ffn_out"} <= slots
    heads = {layer: [tuple(part.shape) for part in parts] for layer, parts in step.queries_keys.items()}
    assert library == "torchvision" or heads[layer_of(norm)] == [(4, 2, 17, 8)] * 2


def test_a_sharpness_that_was_never_a_number_ends_no_epoch(make_run, monkeypatch):
    monkeypatch.setattr("vitbn.training.callbacks.instruments.MeasuredStep._sharpness", lambda *args: math.nan)
    run = finished(make_run(*ON, "study=nan"))
    assert torch.load(run.checkpoints / "last.ckpt", weights_only=True)["global_step"] == 2 * STEPS
