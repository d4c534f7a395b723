"""Lightning's Trainer flags as they are typed."""

import shlex

import pytest
import yaml
from hydra.errors import ConfigCompositionException
from omegaconf.errors import OmegaConfBaseException

from vitbn.config.checks import RANGES, check
from vitbn.config.compose import CONF, compose_config, to_plain_dict
from vitbn.config.messages import one_line
from vitbn.config.trainer import FLAGS
from vitbn.errors import InputError
from vitbn.store.run import run_id


def checked(command):
    overrides = shlex.split(command)
    config = to_plain_dict(compose_config(overrides))
    check(config, overrides)
    return config


def test_every_flag_has_its_rule():
    assert {f"trainer.{flag}" for flag in FLAGS} - RANGES.keys() == {
        "trainer.max_epochs"
    }  # whose rule is that of epochs


# lightning-hydra-template's README, and what it says of trainer and callbacks
LINES = [
    "trainer=cpu", "trainer=gpu", "trainer=ddp trainer.devices=4", "trainer=gpu +trainer.precision=16",
    "trainer.max_epochs=20", "+trainer.max_epochs=20", "+trainer.gradient_clip_val=0.5",
    "+trainer.val_check_interval=0.25 +trainer.limit_train_batches=0.5 ++trainer.accumulate_grad_batches=10",
    '+trainer.max_time="00:12:00:00"', "'trainer.max_time={hours: 1, minutes: 30}'", "+trainer.fast_dev_run=true",
    "+trainer.detect_anomaly=true", "+trainer.profiler=simple", "+trainer.overfit_batches=1.0",
    "trainer.profiler._target_=pytorch_lightning.profilers.SimpleProfiler", "trainer.min_epochs=5",
    "+trainer.limit_train_batches=0.01 +trainer.limit_val_batches=5 +trainer.limit_test_batches=5",
    "trainer=debug", "trainer.deterministic=True", "callbacks=none",
    "callbacks=[default,ema,early_stopping,lr_monitor]",
    "callbacks=early_stopping callbacks.early_stopping.patience=5", "callbacks=device_stats", "~callbacks.images",
    "callbacks.images=null", "'+trainer.plugins=[{_target_: a.B}]'",
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_lines_of_the_template_are_taken(line):
    config = checked(line.replace("trainer.profiler._target_=", "+trainer.profiler._target_="))
    assert None not in config["trainer"].values()


@pytest.mark.parametrize("epochs", ["epochs=${seed}", 'epochs="7"'])
def test_epochs_that_are_no_plain_number_are_those_of_the_trainer(epochs):
    assert checked(f"seed=7 {epochs}")["epochs"] == 7


REFUSED = [
    ("trainer.max_epochs=0", "epochs=0: must be a whole number, at least 1"),
    ("model=mlp data.holdout=true", "data.holdout=True: must be a number of images"),
    ("model.heads=true", "model.heads=True: must be a whole number, at least 1"),
    ("epochs=5 trainer.max_epochs=3", "epochs=5: trainer.max_epochs=3 says otherwise; keep one of them"),
    ("trainer.logger=true", "trainer.logger=True: type logger=NAME"),
    ("+trainer.callbacks=[a]", r"trainer.callbacks=\['a'\]: type callbacks=NAME"),
    ("trainer.default_root_dir=x", "trainer.default_root_dir=x: type runs=FOLDER study=NAME"),
    ("trainer.num_nodes=2", "trainer.num_nodes=2: a run has the devices of one machine"),
    ("trainer.use_distributed_sampler=true", "trainer.use_distributed_sampler=True: leave it out"),
    ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0: must be a whole number, at least 1"),
    ("trainer.accumulate_grad_batches=true", "trainer.accumulate_grad_batches=True: must be a whole number"),
    ("trainer.limit_train_batches=0", "trainer.limit_train_batches=0: must be a number of batches, at least 1"),
    ("trainer.limit_train_batches=1.5", "trainer.limit_train_batches=1.5: must be a number of batches"),
    ("trainer.max_time=1h", "trainer.max_time=1h: must be DD:HH:MM:SS"),
    ("trainer.max_time=00:00:00:00", "trainer.max_time=00:00:00:00: must be DD:HH:MM:SS"),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val=-1.0: must be a number, at least 0"),
    ("trainer.gradient_clip_algorithm=value", "trainer.gradient_clip_algorithm=value: clips nothing without"),
    ("trainer.accelerator=gp", "trainer.accelerator=gp: choose from auto, cpu, gpu"),
    ("trainer.profiler=fast", "trainer.profiler=fast: choose from simple, advanced, pytorch"),
    ("trainer.fast_dev_run=yes", "trainer.fast_dev_run=yes: choose true, or a number of batches"),
    ("callbacks.images=5", "callbacks.images=5: must be a mapping with _target_"),
    ("callbacks=ema recalibrate_bn=true", "recalibrate_bn=true callbacks.ema: measures statistics"),
]


@pytest.mark.parametrize(("command", "message"), REFUSED)
def test_what_cannot_be_had_says_so(command, message):
    with pytest.raises(InputError, match=message):
        checked(command)


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_an_unknown_flag_is_an_unknown_key_however_it_is_typed(plus):
    with pytest.raises((InputError, OmegaConfBaseException, ConfigCompositionException)) as error:
        checked(f"{plus}trainer.gradient_clip_vall=1")
    message = one_line(error.value)
    assert message.startswith("trainer.gradient_clip_vall: unknown key; did you mean trainer.gradient_clip_val?")


SAME = ["trainer.accumulate_grad_batches=1", "trainer.limit_train_batches=1.0", "trainer.gradient_clip_val=0",
        "trainer.profiler=simple", "trainer.max_epochs=10", "+trainer.precision=32", "callbacks=none",
        "callbacks=[lr_monitor,device_stats]", "trainer.enable_progress_bar=false", "trainer.deterministic=false",
        "trainer.num_sanity_val_steps=2", "trainer.check_val_every_n_epoch=1"]  # fmt: skip
OTHER = ["trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=1", "trainer.gradient_clip_val=1",
         "trainer.max_epochs=11", "trainer.precision=bf16", "trainer.max_time=00:00:01:00",
         "trainer.deterministic=true", "callbacks=ema", "callbacks=early_stopping",
         "trainer.val_check_interval=0.5", "trainer.overfit_batches=1",
         "+callbacks.mine._target_=mine.Callback", "+callbacks.mine._target_=vitbn.training.mine.Callback"]  # fmt: skip


@pytest.mark.slow
def test_what_can_change_a_result_is_in_a_runs_name_and_nothing_else():
    names = [run_id(checked(override)) for override in SAME]
    assert set(names) == {run_id(checked("seed=0"))}
    assert len({names[0], *(run_id(checked(override)) for override in OTHER)}) == 1 + len(OTHER)
    assert run_id(checked("trainer.max_epochs=3")) == run_id(checked("epochs=3"))
    assert run_id(checked("trainer.gradient_clip_val=1")) == run_id(checked("trainer.gradient_clip_val=1.0"))


def test_debugging_leaves_the_study_alone():
    config = checked("experiment=fig8 trainer=debug")
    assert config["study"] == "debug" and config["rerun"] and config["trainer"]["fast_dev_run"] is True


def test_a_file_of_ones_own_need_not_name_every_flag(tmp_path, monkeypatch):
    (tmp_path / "conf" / "trainer").mkdir(parents=True)
    (tmp_path / "conf" / "trainer" / "mine.yaml").write_text("accumulate_grad_batches: 4")
    monkeypatch.chdir(tmp_path)
    trainer = checked("trainer=mine +trainer.gradient_clip_val=1")["trainer"]
    assert (trainer["accumulate_grad_batches"], trainer["gradient_clip_val"], trainer["devices"]) == (4, 1, 1)


def test_the_files_of_the_group_set_what_they_say():
    files = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "trainer").glob("*.yaml")}
    assert set(files) == {"default", "cpu", "gpu", "ddp", "debug"} and set(files["default"].values()) == {None}
