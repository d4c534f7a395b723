"""What is typed wrong gets one line, within a second: torch is not imported before it."""

import logging
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vitbn.config.messages import parse
from vitbn.train import main

ROOT = Path(__file__).parents[2]

COMMANDS = [
    # a key that does not exist, however it is typed
    ("+epohcs=1", "+epohcs=1: unknown key; did you mean epochs?"),
    ("++foo=1", "++foo=1: unknown key; the keys are model, norm,"),
    ("+model.hidden=1", "+model.hidden=1: unknown key; the keys of model=vit are model.channels,"),
    ("+data.size=320", "+data.size=320: unknown key; the keys of data=mnist are"),
    ("-m data=mnist,fashion_mnist +data.dataset=1", "+data.dataset=1: unknown key; the keys of data=mnist are"),
    ("+norm.foo=batch", "+norm.foo=batch: unknown key; the keys are norm.embed_in,"),
    ("precision=bf16-mixed", "precision=bf16-mixed: unknown key; did you mean trainer.precision?"),
    ("image_size=28", "image_size=28: unknown key; did you mean data.image_size?"),
    ("weight_decay=0.1", "weight_decay=0.1: unknown key; did you mean optimizer.weight_decay of optimizer=adamw?"),
    (
        "optimizer.wd=1",
        "optimizer.wd=1: unknown key; the keys are optimizer.lr, optimizer.fused,",
    ),
    ("model=mlp ++depth=3", "depth=3: model=mlp has no use for it"),
    # what Hydra cannot read or do
    ("vit", "vit: must be KEY=VALUE"),
    ("=3", "=3: must be KEY=VALUE"),
    ("model=vit,vitbn", "model=vit,vitbn: several values; add -m to train a run of each"),
    ("depth=range(1,4)", "depth=range(1,4): several values; add -m"),
    ("-m lr=interval(1e-4,1e-2)", "lr=interval(1e-4,1e-2): list the values, such as 1,2,3, or search with"),
    ("lr=chioce(1,2)", "lr=chioce(1,2): no function chioce, there are bool, choice,"),
    ("--cfg job -m depth=1,2", "Only one of --run, --multirun, --cfg"),
    (
        "model.pretrained=x/epoch=3-step=100.ckpt",
        "model.pretrained=x/epoch=3-step=100.ckpt: the value has characters that need quotes; as text: "
        "'model.pretrained=\"x/epoch=3-step=100.ckpt\"'",
    ),
    ("data.root=größe", "data.root=größe: the value has characters that need quotes; as text: 'data.root=\"größe\"'"),
    ("runs=~/runs", "runs=~/runs: the value has characters that need quotes"),
    ("~schedule", "~schedule: schedule cannot be left out; choose from constant, cosine,"),
    ("model=null", "model=null: model cannot be left out; choose from alexnet,"),
    ("norm=3", "norm=3: norm cannot be left out; choose from bn_ffn_bn, ffn_bn_both,"),
    # where runs would not be where the table looks
    ("runs=s3://bucket/runs", "runs=s3://bucket/runs: must be a folder of this machine"),
    ('runs="~/runs"', "runs=~/runs: must be a folder of this machine"),
    ("hydra.job.chdir=true", "hydra.job.chdir=True: a run's folder is named by its configuration"),
    ("hydra.run.dir=X", "hydra.run.dir=X: a run's folder is named by its configuration"),
    ("-m hydra.sweep.dir=X", "hydra.sweep.dir=X: a run's folder is named by its configuration"),
    # values
    ("dpeth=3", "dpeth=3: unknown key; did you mean depth?"),
    ("norm.final={kind:ghost_batch,virtual:30}", "norm.final=ghost_batch(virtual=30): virtual=30 does not divide"),
    (
        "norm.final=ghost_batch trainer.devices=2 batch_size=75",
        "norm.final=ghost_batch: virtual=25 does not divide batch_size=75 on 2 devices",
    ),
    ("pool=men", "pool=men: choose from cls, mean"),
    ("depth=0", "depth=0: must be a whole number, at least 1"),
    ("model=nope", "model=nope: unknown; choose from alexnet, dnn, dnn_bn, hf, mlp, mlp_bn, resnet34, timm,"),
    ("norm=nope", "norm=nope: unknown; choose from alexnet, bn_ffn_bn, dnn, dnn_bn, ffn_bn_both,"),
    ("model.pretrained=nowhere.pth", "model.pretrained=nowhere.pth: neither a file or folder here nor a hub ID"),
    ("norm.ffn_hiden=batch", "norm.ffn_hiden=batch: unknown key; did you mean norm.ffn_hidden?"),
    ("norm.ffn_hidden=rmsnorm", "norm.ffn_hidden=rmsnorm: unknown kind 'rmsnorm'; choose from none, layer, batch"),
    (
        "-m norm.ffn_hidden=layer,rmsnorm",
        "norm.ffn_hidden=rmsnorm: unknown kind 'rmsnorm'; choose from none, layer, batch, batch_scalar",
    ),
    ("depth=deep", "depth=deep: Value 'deep'"),
    ("-m depth=4,0", "depth=0: must be a whole number, at least 1"),
    ("-m pool=cls,men", "pool=cls,men: choose from cls, mean"),
    ("-m model=vit,nope depth=1,2", "model=nope: unknown; choose from"),
    ("experiment=nope", "experiment=nope: unknown; choose from"),
    ("logger=[csv,nope]", "logger=nope: unknown; choose from csv, mlflow, none, tensorboard, wandb"),
    ("-m norm=vit,null", "norm=vit,null: norm cannot be left out; choose from bn_ffn_bn, ffn_bn_both,"),
    ("-m seed=range(0,0)", "seed=range(0,0): no values"),
    ("model.depth=3", "model.depth=3: follows depth=6; type depth=3"),
    ("-m model.depth=3,6", "model.depth=3: follows depth=6; type depth=3"),
    ("logger=null", "logger=null: logger cannot be left out; choose from csv, mlflow, none, tensorboard, wandb"),
    ("logger=wandb logger.offline=true", "logger.offline=true: unknown key; did you mean logger.wandb.offline?"),
    ("logger.offline=true", "logger.offline=true: unknown key; did you mean logger.wandb.offline of logger=wandb?"),
    ("+logger.wandb.tags=[a]", "logger.wandb: has no _target_; choose the logger first, such as logger=[wandb]"),
    ("callbacks.ema.decay=1", "callbacks.ema: unknown key; choose it first: callbacks=ema, or callbacks=[ema,…]"),
    ("logger.wandb.tags=[a]", "logger.wandb: unknown key; choose it first: logger=wandb, or"),
    ("data=folder", "data.root: has no default; type data.root=VALUE"),
    ("data=folder data.root=nowhere", "data.root=nowhere: no such folder"),
    ("-m data=folder data.root=nowhere,there", "data.root=nowhere: no such folder"),
    (
        "model=resnet34 model.pretrained=x",
        "model.pretrained=x: unknown key; the keys of model=resnet34 are",
    ),
    (
        "trainer.devces=2",
        "trainer.devces=2: unknown key; did you mean trainer.devices? The keys are",
    ),
    ("-m trainer=ddp trainer.strategy=ddp_spawn,fsdp", "trainer.strategy=ddp_spawn: choose ddp: vitbn starts its"),
    ("data.rot=x", "data.rot=x: unknown key; did you mean data.root? The keys of data=mnist are data.root, data.image"),
    ("schedule=cos", "schedule=cos: unknown; choose from constant, cosine,"),
    (
        "model=mlp depth=3",
        "depth=3: model=mlp has no use for it, only vit, vit_b16, vitbn, vitbn_scalar,",
    ),
    ("-m model=vit,dnn pool=mean", "pool=mean: model=dnn has no use for it, only vit,"),
    ("experiment=fig10 model=vit,mlp", "depth=2: model=mlp has no use for it, only vit,"),
]


@pytest.fixture
def own_logging():
    """Hydra's handlers, which write to this test's stdout, go with it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize(("command", "message"), COMMANDS)
def test_a_mistyped_command_gets_one_line(tmp_path, monkeypatch, capfd, command, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which `main` sets
    monkeypatch.setattr(sys, "argv", ["train.py", *command.split()])
    with pytest.raises(SystemExit) as exit:
        main()
    printed = capfd.readouterr()
    assert exit.value.code == 2 and printed.out == ""
    assert printed.err.startswith(f"error: {message}") and printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["dpeth=3", "depth=0", "-m depth=4,0", "+epohcs=1", "callbacks.ema.decay=1"])
def test_torch_is_not_imported_before_a_message(tmp_path, command):
    guard = "import sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; import runpy; "
    code = guard + "runpy.run_path(sys.argv[0], run_name='__main__')"
    train = [sys.executable, "-c", code, str(ROOT / "train.py"), *command.split()]
    done = subprocess.run(train, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_text_that_a_message_proposes_is_read_as_it_was_meant(tmp_path):
    for value in ("Photos (2023)", "größe", "a=b", '"a=b" \\"'):
        train = [sys.executable, str(ROOT / "train.py"), f"data.root={value}", "--cfg", "job"]
        line = subprocess.run(train, cwd=tmp_path, capture_output=True, text=True).stderr
        (proposed,) = shlex.split(line.rpartition("as text: ")[2])
        assert parse([proposed])[0].value() == value


@pytest.mark.parametrize("content", ["defaults: [override /model: vitbn]", "lr: 1", "foo: 1"])
def test_an_experiment_that_is_not_global_says_how_its_file_begins(tmp_path, content):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(content)
    train = [sys.executable, str(ROOT / "train.py"), "--config-dir", str(tmp_path), "experiment=mine"]
    done = subprocess.run(train, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == "error: experiment=mine: the first line of its file must be '# @package _global_'\n"
