"""Lightning's Trainer flags and callbacks in real runs: what they do; resumed runs equal undisturbed ones."""

import csv
import inspect
import math

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from vitbn import rng
from vitbn.config.trainer import FLAGS
from vitbn.errors import InputError
from vitbn.training.outcome import Signals, attempt
from vitbn.training.schedule import make_factor
from vitbn.training.train import train
from vitbn.training.trainer import own_callbacks, require_devices, steps_per_epoch
from vitbn.weights.network import load_network

STEPS = 6  # batches per epoch: 300 images, batch 50
EVERY_STEP = "checkpoint.every_minutes=1e-9"
OPTIONS = ("epochs=3", "model=vitbn", "model.dropout=0.1", "log_every=2")


def rows(run):
    with (run.folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def column(run, name):
    return [row[name] for row in rows(run)]


def test_every_flag_of_lightnings_trainer_is_a_key():
    assert set(FLAGS) == set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}


RESUMED = {
    "accumulated": ("trainer.accumulate_grad_batches=4", "trainer.gradient_clip_val=0.1", "schedule=cosine"),
    "limited": ("trainer.limit_train_batches=4", "trainer.check_val_every_n_epoch=2"),
    "validated in mid-epoch": ("trainer.val_check_interval=4", "trainer.overfit_batches=5", "trainer.max_steps=13"),
    "never validated": ("trainer.limit_val_batches=0", "trainer.max_time=09:00:00:00"),
    "averaged": ("callbacks=[ema,early_stopping]", "callbacks.ema.decay=0.8", "callbacks.early_stopping.patience=1",
                 "callbacks.early_stopping.min_delta=1"),
    "norms": ("norm.attn_in=prep_batch", "norm.ffn_in=batch_renorm", "norm.ffn_hidden={kind:ghost_batch,virtual:10}",
              "norm.attn_post=power", "norm.ffn_out=rep_batch"),
}  # fmt: skip


@pytest.mark.parametrize(("hook", "n"), [("on_train_batch_start", 6), ("on_train_batch_start", 9),
                                         ("on_test_batch_end", 1)])  # fmt: skip
@pytest.mark.parametrize("flags", RESUMED.values(), ids=RESUMED)
@pytest.mark.slow
def test_resumed_runs_equal_undisturbed_ones(make_run, kill, outcome, undisturbed, flags, hook, n):
    run = make_run(*OPTIONS, *flags, EVERY_STEP, "study=killed")
    kill(run, hook, n)
    attempt(run, train)
    resumed, straight = outcome(run), undisturbed(make_run, *OPTIONS, *flags)
    assert resumed == straight
    weights = [end.checkpoint.get("current_model_state", {}) for end in (resumed, straight)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_accumulated_small_batches_are_one_large_batch(make_run):
    small, large = ("batch_size=25", "trainer.accumulate_grad_batches=2", "log_every=2"), ("log_every=1",)
    runs = [make_run(*options, "epochs=1", "optimizer=sgd", f"study={n}") for n, options in enumerate((small, large))]
    for run in runs:
        attempt(run, train)
    tables = [[float(row["train/loss"]) for row in csv.DictReader((run.folder / "steps.csv").open())] for run in runs]
    assert len(tables[0]) == STEPS and tables[0] == pytest.approx(tables[1], rel=1e-5)
    assert float(rows(runs[0])[0]["val/loss"]) == pytest.approx(float(rows(runs[1])[0]["val/loss"]), rel=1e-5)


def test_every_batch_has_random_numbers_of_its_own(make_run, add_callback):
    class Seeds(Callback):
        seen: list[int] = []

        def on_train_batch_end(self, *args):
            self.seen.append(torch.initial_seed())

    add_callback(Seeds())
    attempt(make_run("trainer.accumulate_grad_batches=4"), train)
    assert Seeds.seen == [rng.key(0, "step", batch, 0) for batch in range(2 * STEPS)]


@pytest.mark.parametrize(
    ("flags", "steps"),
    [({}, 6), ({"limit_train_batches": 4}, 4), ({"limit_train_batches": 9}, 6), ({"limit_train_batches": 0.5}, 3),
     ({"accumulate_grad_batches": 4}, 2), ({"limit_train_batches": 1.0, "accumulate_grad_batches": 5}, 2),
     ({"overfit_batches": 2}, 2), ({"overfit_batches": 0.5, "limit_train_batches": 5}, 3)],
)  # fmt: skip
def test_steps_of_an_epoch(flags, steps):
    assert steps_per_epoch(flags, STEPS) == steps


def test_the_schedule_ends_with_the_training(make_run):
    run = make_run("epochs=3", "trainer.accumulate_grad_batches=3", "trainer.max_steps=5", "schedule=cosine")
    attempt(run, train)
    factor = make_factor({"name": "cosine", "warmup": 0.0, "floor": 0.0}, epochs=3, steps_per_epoch=2, max_steps=5)
    assert [float(lr) for lr in column(run, "lr")] == pytest.approx([0.003 * factor(step) for step in (1, 3, 4)])
    assert factor(5) == 0


def test_what_an_epoch_does_not_measure_has_an_empty_cell(make_run):
    run = make_run("epochs=3", "trainer.check_val_every_n_epoch=2", "stop_stuck=2")
    result = attempt(run, train)
    assert [bool(cell) for cell in column(run, "val/acc")] == [False, True, False] and all(column(run, "train/acc"))
    assert result["status"] == "done" and result["metrics"]["val/acc"] is None and result["metrics"]["test/acc"] > 0
    assert torch.load(run.checkpoints / "best.ckpt", weights_only=True)["epoch"] == 1


def test_overfitting_sees_the_same_batches_in_every_epoch(make_run, add_callback):
    class Labels(Callback):
        seen: list[list[int]] = []

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.seen.append(batch.labels.tolist())

    add_callback(Labels())
    attempt(make_run("trainer.overfit_batches=2"), train)
    assert len(Labels.seen) == 4 and Labels.seen[:2] == Labels.seen[2:] and Labels.seen[0] != Labels.seen[1]


@pytest.mark.parametrize(
    "flag",
    ["profiler=simple", "detect_anomaly=true", "deterministic=true", "enable_progress_bar=true",
     "num_sanity_val_steps=2", "inference_mode=false", "enable_model_summary=true",
     "reload_dataloaders_every_n_epochs=1", "log_every_n_steps=3"],
)  # fmt: skip
@pytest.mark.slow
def test_flags_that_only_look_on_change_no_number(make_run, undisturbed, flag):
    run = make_run("log_every=2", f"trainer.{flag}", "study=flag")
    attempt(run, train)
    _, result = undisturbed(make_run, "log_every=2").tables, undisturbed(make_run, "log_every=2").result
    assert run.result()["metrics"] == result["metrics"]
    assert (run.folder / "fit-profile.txt").exists() == flag.startswith("profiler")


def test_no_checkpoints_if_none_are_wanted(make_run):
    run = make_run("trainer.enable_checkpointing=false", "epochs=1")
    assert attempt(run, train)["status"] == "done" and not list(run.checkpoints.iterdir())


def test_a_debugging_run_lies_elsewhere_and_is_never_done(make_run):
    run = make_run("trainer=debug", "study=mine")
    assert run.study.name == "debug" and run.config["rerun"]
    result = attempt(run, train)
    assert result["epochs"] == 1 and sum(map(sum, result["confusion"])) == 100
    assert not list(run.folder.glob("events*")) and not list(run.checkpoints.iterdir())


def test_averaged_weights_are_what_is_tested_kept_and_loaded(make_run):
    run = make_run("callbacks=ema", "callbacks.ema.decay=0.5", "model=vitbn", "epochs=1")
    plain = make_run("model=vitbn", "epochs=1")
    accuracies = [attempt(each, train)["metrics"] for each in (run, plain)]
    assert accuracies[0]["train/loss"] == accuracies[1]["train/loss"]
    assert accuracies[0]["val/loss"] != accuracies[1]["val/loss"]
    averaged, last = (load_network(each.folder).net.state_dict() for each in (run, plain))
    checkpoint = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    for name, value in averaged.items():
        assert torch.equal(value, checkpoint["state_dict"][f"net.{name}"])
        assert torch.equal(last[name], checkpoint["current_model_state"][f"net.{name}"])
    assert not torch.equal(averaged["head.weight"], last["head.weight"])


class LogsSomething(Callback):
    """A callback of one's own: a metric per epoch, one that begins late, one per step."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.log("brightness, mean", batch.images.mean(), on_step=True, on_epoch=True)

    def on_train_epoch_end(self, trainer, module):
        self.log("answer", 42.0)
        if trainer.current_epoch == 1:
            self.log("late", 1.0)


def test_what_callbacks_log_becomes_a_column(make_run):
    run = make_run("epochs=3", f"+callbacks.mine._target_={__name__}.LogsSomething")
    attempt(run, train)
    assert list(rows(run)[0])[7:] == ["answer", "brightness, mean", "gradient norm", "late"]
    assert column(run, "answer") == ["42.0"] * 3 and column(run, "late") == ["", "1.0", ""]
    assert all(0 < float(cell) < 1 for cell in column(run, "brightness, mean"))


@pytest.mark.parametrize(
    ("override", "message"),
    [("+callbacks.mine={_target_: nowhere.Mine}", "callbacks.mine: .*No module named 'nowhere'.* PYTHONPATH"),
     ("+callbacks.mine={_target_: pytorch_lightning.callbacks.EarlyStopping, monitr: x}", "callbacks.mine: .*monitr"),
     ("+callbacks.mine={_target_: builtins.dict}", "callbacks.mine: builtins.dict is no callback"),
     ("+callbacks.mine={_target_: pytorch_lightning.callbacks.ModelCheckpoint}", None)],
)  # fmt: skip
@pytest.mark.slow
def test_a_callback_that_cannot_be_made_is_named(make_run, override, message):
    config = make_run("callbacks=none", override).config["callbacks"]
    if message is None:
        assert len(own_callbacks(config)) == 1
    else:
        with pytest.raises(InputError, match=message) as error:
            own_callbacks(config)
        assert "\n" not in str(error.value)


def test_flags_that_do_not_go_together_are_one_line(make_run):
    run = make_run(
        "trainer.enable_checkpointing=false", "+callbacks.m._target_=pytorch_lightning.callbacks.ModelCheckpoint"
    )
    with pytest.raises(InputError, match="trainer: .*enable_checkpointing=False.*ModelCheckpoint") as error:
        train(run, Signals())
    assert "\n" not in str(error.value)


def test_a_time_that_is_up_ends_the_training_as_done(make_run, add_callback):
    class Slow(Callback):
        def on_fit_start(self, trainer, module):
            timer = next(callback for callback in trainer.callbacks if isinstance(callback, pl.callbacks.Timer))
            timer._duration = 1e-9

    add_callback(Slow())
    run = make_run("trainer.max_time=00:00:00:01", "epochs=9")
    result = attempt(run, train)
    assert result["status"] == "done" and result["epochs"] == 1 and math.isfinite(result["metrics"]["val/loss"])


@pytest.mark.parametrize("precision", ["16-mixed", "16"])
def test_fp16_needs_a_gpu(precision):
    trainer = {"accelerator": "cpu", "devices": 1, "precision": precision}
    with pytest.raises(InputError, match=f"trainer.precision={precision}: needs a GPU; on a CPU choose bf16-mixed"):
        require_devices(trainer)
