"""One training, top to bottom: data, network, callbacks, logger, trainer, fit, test, result."""

import copy
import logging
import warnings
from contextlib import ExitStack
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers.logger import DummyLogger, Logger
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import nn
from tqdm.contrib.logging import logging_redirect_tqdm

from vitbn.data.datamodule import ImageData
from vitbn.errors import InputError
from vitbn.models.factory import build, make_optimizer
from vitbn.models.sync_batchnorm import convert_sync_batchnorm
from vitbn.norms.batch import GhostBatchNorm
from vitbn.store import checkpoint_file
from vitbn.store.run import Run
from vitbn.training.callbacks.checkpoint import checkpoint_callbacks
from vitbn.training.callbacks.environment import EnvironmentOfParts
from vitbn.training.callbacks.instruments import Instruments
from vitbn.training.callbacks.metrics_file import EPOCH_METRICS, MetricsFile, StepsFile
from vitbn.training.callbacks.progress import EpochLines, ProgressBar
from vitbn.training.callbacks.recalibrate import RecalibrateBatchNorm
from vitbn.training.callbacks.stopping import (
    StayStopped,
    StopAtStep,
    StopOnDivergence,
    StopOnSignal,
    StopWhenStuck,
    chance_level,
    require_finite,
)
from vitbn.training.callbacks.train_mode import TrainModeAccuracy
from vitbn.training.compiling import compile_blocks, pays
from vitbn.training.continuation import checkpoint_to_go_on_from
from vitbn.training.ddp import train_in_processes
from vitbn.training.fingerprint import environment, fingerprint
from vitbn.training.loggers.make import open_loggers
from vitbn.training.module import Classifier
from vitbn.training.numerics import cpu_threads, float32_arithmetic, keep_memory
from vitbn.training.outcome import Diverged, Signals
from vitbn.training.schedule import make_schedulers, total_steps
from vitbn.training.trainer import (
    make_trainer,
    own_callbacks,
    require_devices,
    shows_bar,
    steps_per_epoch,
    take_averaged_weights,
)
from vitbn.weights.pretrained import load_pretrained

log = logging.getLogger("vitbn")


def train(run: Run, signals: Signals) -> dict[str, Any]:
    """Train and test the run, in one process per device; what result.json says of it."""
    if run.config["trainer"]["devices"] > 1:
        return train_in_processes(train_process, run, signals)
    LightningEnvironment().set_global_rank(0)  # not the RANK or SLURM_PROCID of whatever has started this process
    return train_process(run, signals)


def train_process(run: Run, signals: Signals) -> dict[str, Any]:
    """The training as each process of it runs it. InputError for data, weights or a device that are not there."""
    cfg = run.config
    silence_warnings()
    require_devices(cfg["trainer"])
    keep_memory()
    with cpu_threads(cfg["threads"]), float32_arithmetic(cfg["matmul_precision"]), ExitStack() as ending:
        net = build_network(cfg)  # before the data: what is wrong with it is said before photographs are decoded
        data = ImageData.of(cfg)
        data.setup("fit")
        require_samples(net, cfg, len(data.splits[0]))
        if cfg["test_train_mode"]:
            require_samples(net, cfg, len(data.test), size_key="val_batch_size")
        net = pool_statistics(net, cfg["trainer"])
        chance = chance_level(data.splits[1].labels)

        initial = fingerprint(
            net, seed=cfg["seed"], train_images=len(data.splits[0]), validation=data.validation_draws()
        )
        steps, max_steps = steps_per_epoch(cfg["trainer"], data.steps_per_epoch), cfg["trainer"].get("max_steps", -1)
        module = Classifier(
            net,
            num_classes=len(data.classes),
            make_optimizer=make_optimizer(cfg["optimizer"], cfg["lr"]),
            make_schedulers=make_schedulers(
                cfg["schedule"],
                epochs=cfg["epochs"],
                steps_per_epoch=steps,
                max_steps=max_steps,
            ),
            label_smoothing=cfg["label_smoothing"],
            mixup=cfg["mixup"],
            cutmix=cfg["cutmix"],
            max_steps=max_steps,
            seed=cfg["seed"],
        )

        loggers: list[Logger] = (
            [DummyLogger()] if cfg["trainer"].get("fast_dev_run") else ending.enter_context(open_loggers(run))
        )
        metrics_file = MetricsFile(run.folder / "metrics.csv")
        parts = EnvironmentOfParts()
        callbacks = [parts, *build_callbacks(run, data, metrics_file, signals, chance)]
        trainer = make_trainer(run, net, callbacks, loggers)
        # Lightning converts after it has restored a checkpoint, which would round float64 weights to float32 on the way
        trainer.precision_plugin.convert_module(module)
        compiled = should_compile(cfg["compile"], net, callbacks, total_steps(cfg["epochs"], steps, max_steps))
        if compiled:
            compile_blocks(net)

        conditions = {
            "matmul_precision": cfg["matmul_precision"],
            "precision": trainer.precision,
            "compiled": compiled,
            "val_images": len(data.splits[1]),
            "fingerprint": initial,
            **environment(trainer.strategy.root_device, trainer.world_size),
        }

        def recorded() -> dict[str, Any]:
            return conditions | parts.recorded() | ({} if module.lr is None else {"lr_found": module.lr})

        if shows_bar(run):
            ending.enter_context(logging_redirect_tqdm())  # lines above the bar
        try:
            with signals.deferred():
                trainer.fit(module, data, ckpt_path=checkpoint_to_go_on_from(run, steps))
            validated = [row["val/loss"] for row in metrics_file.rows if row["val/loss"] is not None]
            require_finite(net, validated[-1] if validated else None, trainer.global_step)
        except Diverged as divergence:
            last = metrics_file.rows[-1] if metrics_file.rows else {}
            return {
                "status": "diverged",
                "metrics": {name: last.get(name) for name in EPOCH_METRICS},
                "epochs": len(metrics_file.rows),
                "error": str(divergence),
                "step": divergence.step,
                **recorded(),
            }
        if trainer.is_global_zero:
            metrics_file.write()
        take_averaged_weights(trainer, module)
        trainer.test(module, data, verbose=False)

        last = dict.fromkeys(EPOCH_METRICS) | (metrics_file.rows[-1] if metrics_file.rows else {})
        test_metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if name[:5] == "test/"}
        return {
            "status": "done",
            "label": "stuck" if last["val/acc"] is not None and last["val/acc"] <= chance else None,
            "metrics": {name: last[name] for name in EPOCH_METRICS} | test_metrics,
            "epochs": len(metrics_file.rows),
            "error": None,
            "confusion": module.confusion.compute().tolist(),
            "classes": list(data.classes),
            **recorded(),
        }


def should_compile(typed: bool | str, net: nn.Module, callbacks: list[Callback], steps: int) -> bool:
    """What was typed, or for `auto` whether the training is long enough, which is said."""
    if typed != "auto":
        return bool(typed)
    hooked = any(isinstance(callback, Instruments) for callback in callbacks)
    compiled = pays(net, steps) and not hooked
    reason = "instruments see nothing inside of compiled blocks" if hooked else f"{steps:,} steps"
    log.info(f"compile=auto: {'compiled' if compiled else 'not compiled'} ({reason})")
    return compiled


def build_network(cfg: dict[str, Any]) -> nn.Module:
    """The network with its initial weights."""
    net = build(cfg["model"], seed=cfg["seed"])
    if cfg["model"].get("pretrained"):
        load_pretrained(net, cfg)
    return net


def pool_statistics(net: nn.Module, trainer: dict[str, Any]) -> nn.Module:
    """BatchNorms of several devices share their statistics unless told not to."""
    return convert_sync_batchnorm(net) if trainer["devices"] > 1 and trainer["sync_batchnorm"] else net


def require_samples(net: nn.Module, cfg: dict[str, Any], images: int, *, size_key: str = "batch_size") -> None:
    """InputError if a norm over the batch would get a single sample in a step of an epoch; `net` is not pooled yet."""
    size = cfg[size_key]
    lonely = [step for step in (min(size, images), images % size or size) if _has_one_alone(net, step, cfg["trainer"])]
    if not lonely:
        return
    outline = copy.deepcopy(net).to("meta").train()
    side = cfg["data"]["image_size"]
    try:
        outline(torch.empty(1, cfg["data"]["channels"], side, side, device="meta"))
    except ValueError as error:
        if "more than 1 value" not in str(error):
            raise
        steps = "every step has" if lonely[0] == size else f"the last step of {images:,} images has"
        some = "one image" if lonely[0] == 1 else f"{lonely[0]} images, one of them alone"
        told = f"{steps} {some}, one sample for a BatchNorm; choose another size"
        raise InputError(f"{size_key}={size}: {told}") from None


def _has_one_alone(net: nn.Module, step: int, trainer: dict[str, Any]) -> bool:
    """Whether a norm sees an image by itself; devices that pool are as one, but for the parts of a ghost batch."""
    shares = {step // trainer["devices"], -(-step // trainer["devices"])}
    parts = {share % norm.virtual for norm in net.modules() if isinstance(norm, GhostBatchNorm) for share in shares}
    return 1 in parts | ({step} if trainer["sync_batchnorm"] else shares)


def build_callbacks(
    run: Run, data: ImageData, metrics_file: MetricsFile, signals: Signals, chance: float
) -> list[Callback]:
    """One's own callbacks first, so that ours see what they have logged and done; then the run's, checkpoints last."""
    cfg = run.config
    own = own_callbacks(cfg["callbacks"])
    lines = EpochLines(metrics_file)
    callbacks: list[Callback] = [*own, metrics_file, lines, StopOnDivergence(), StayStopped()]
    if shows_bar(run) and not any(isinstance(callback, pl.callbacks.ProgressBar) for callback in own):
        callbacks.append(ProgressBar(lines))
    if cfg["trainer"].get("max_steps", -1) > 0:
        callbacks.append(StopAtStep(cfg["trainer"]["max_steps"]))
    if cfg["stop_stuck"]:
        callbacks.append(StopWhenStuck(chance, cfg["stop_stuck"], metrics_file))
    if cfg["recalibrate_bn"]:
        callbacks.append(RecalibrateBatchNorm(data))
    if cfg["test_train_mode"]:
        callbacks.append(TrainModeAccuracy(len(data.classes)))
    if cfg["log_every"]:
        callbacks.append(StepsFile(run.folder / "steps.csv", cfg["log_every"]))
    if not cfg["trainer"].get("enable_checkpointing", True):
        return [*callbacks, StopOnSignal(signals, None)]
    # after the others, so that its checkpoint holds what they have just counted
    callbacks.append(StopOnSignal(signals, run.checkpoints / checkpoint_file.LAST))
    return [*callbacks, *checkpoint_callbacks(run.checkpoints, cfg["checkpoint"]["every_minutes"])]


def silence_warnings() -> None:
    """Those of Lightning that say nothing about a run of ours."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # set to INFO by their import
    for noise in (
        ".*LeafSpec.* is deprecated",
        "Checkpoint directory .* exists and is not empty",
        "Glyph .* missing",
        "You requested to overfit but enabled",  # the order is the same in every epoch
        ".*could not find the monitored key in the returned metrics",  # of an epoch without validation
        "ReduceLROnPlateau conditioned on metric",  # likewise
        r".*add the following callbacks: \['instruments'\]",  # an onlooker, which a run can do without
        ".*recommended to use `self.log.*sync_dist=True",  # the metrics are synchronized by themselves
    ):
        warnings.filterwarnings("ignore", noise)
