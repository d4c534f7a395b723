"""Checks of `trainer` and `callbacks`. Imports no torch."""

import re
from collections.abc import Sequence
from typing import Any

from vitbn.config.messages import parse, unknown_key
from vitbn.config.ranges import Range, counting, natural, not_negative, one_of, whole
from vitbn.config.trainer import FLAGS
from vitbn.errors import InputError
from vitbn.norms.kinds import SCHEDULED, is_number, label, split


def _is_share(value: Any) -> bool:
    return type(value) is float and 0 <= value <= 1


def _is_made(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def _is_duration(value: Any) -> bool:
    if isinstance(value, str):
        return bool(re.fullmatch(r"\d+:\d\d:\d\d:\d\d", value)) and bool(value.strip("0:"))
    units = {"days", "hours", "minutes", "seconds"}
    if not isinstance(value, dict) or not value.keys() <= units:
        return False
    return all(is_number(count) and count >= 0 for count in value.values()) and any(value.values())


def _elsewhere(remedy: str) -> Range:
    return (lambda v: False), remedy


_batches: Range = (lambda v: natural[0](v) or _is_share(v), "must be a number of batches, or a share in [0, 1]")
_some_batches: Range = (lambda v: v and _batches[0](v), "must be a number of batches, at least 1, or a share in (0, 1]")
_switch: Range = (lambda v: isinstance(v, bool), "choose from true, false")
_made = "or {_target_: CLASS, OPTION: VALUE}"


# of Lightning's Trainer, in the order of conf/trainer/default.yaml
TRAINER_RANGES: dict[str, Range] = {
    f"trainer.{flag}": allowed
    for flag, allowed in {
        "accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps"),
        "devices": counting,
        "strategy": (
            lambda v: v in ("auto", "ddp"),
            "choose ddp: vitbn starts its processes itself, also in a sweep, which other launchers would begin again",
        ),
        "num_nodes": (lambda v: v == 1, "a run has the devices of one machine; a sweep can use many (hydra/launcher)"),
        "sync_batchnorm": one_of("auto", True, False),
        "use_distributed_sampler": _elsewhere("leave it out, every process gets its share of every batch"),
        "precision": one_of("32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"),
        "plugins": (lambda v: isinstance(v, list) and all(map(_is_made, v)), "must be a list, [{_target_: CLASS}]"),
        "min_epochs": natural,
        "max_steps": (lambda v: v == -1 or counting[0](v), "must be a whole number, at least 1; -1: no limit"),
        "min_steps": natural,
        "max_time": (_is_duration, "must be DD:HH:MM:SS, or {hours: 1, minutes: 30}"),
        "limit_train_batches": _some_batches,
        "limit_val_batches": _batches,
        "limit_test_batches": _batches,
        "limit_predict_batches": _batches,
        "overfit_batches": _batches,
        "fast_dev_run": (lambda v: isinstance(v, bool) or natural[0](v), "choose true, or a number of batches"),
        "accumulate_grad_batches": counting,
        "gradient_clip_val": not_negative,
        "gradient_clip_algorithm": one_of("norm", "value"),
        "val_check_interval": (_some_batches[0], f"{_some_batches[1]}; a time would tie the result to the machine"),
        "check_val_every_n_epoch": counting,
        "num_sanity_val_steps": (whole(-1)[0], "must be a whole number, at least 0; -1: all"),
        "reload_dataloaders_every_n_epochs": natural,
        "deterministic": one_of(True, False, "warn"),
        "benchmark": _switch,
        "inference_mode": _switch,
        "detect_anomaly": _switch,
        "barebones": _elsewhere("leaves out what a run is made of, its metrics and checkpoints"),
        "enable_progress_bar": _switch,
        "enable_model_summary": _switch,
        "enable_checkpointing": _switch,
        "log_every_n_steps": natural,
        "profiler": (
            lambda v: v in ("simple", "advanced", "pytorch") or _is_made(v),
            f"choose from simple, advanced, pytorch, {_made}",
        ),
        "enable_autolog_hparams": _switch,
        "model_registry": (lambda v: isinstance(v, str), "must be a name"),
        "logger": _elsewhere("type logger=NAME"),
        "callbacks": _elsewhere("type callbacks=NAME, or callbacks=[NAME,NAME]"),
        "default_root_dir": _elsewhere("type runs=FOLDER study=NAME"),
    }.items()
}


def check_trainer(config: dict[str, Any], typed: Sequence[str]) -> None:
    """InputError for a flag that is none of Lightning's, or that means nothing beside the others."""
    if unknown := [flag for flag in config["trainer"] if flag not in FLAGS]:
        key = f"trainer.{unknown[0]}"
        raise InputError(unknown_key(key, key, dict.fromkeys(FLAGS)))
    trainer, epochs = config["trainer"], config["epochs"]
    last = {override.key_or_group: override for override in parse(typed)}  # typed twice, Hydra takes the last
    if "epochs" in last and type(value := last["epochs"].value()) is int and value != epochs:
        raise InputError(f"epochs={value}: trainer.max_epochs={epochs} says otherwise; keep one of them")
    if (limit := trainer.get("max_steps", -1)) > 0 and (least := {"min_epochs", "min_steps"} & trainer.keys()):
        key = min(least)
        raise InputError(f"trainer.max_steps={limit} trainer.{key}={trainer[key]}: keep one of them")
    if (least_epochs := trainer.get("min_epochs") or 0) > epochs:
        raise InputError(f"trainer.min_epochs={least_epochs}: more than epochs={epochs}")
    clips, fused = trainer.get("gradient_clip_val"), config["optimizer"].get("fused")
    if clips and fused and str(trainer["precision"]).startswith("16"):
        reason = "a fused optimizer takes fp16's scale off after the clipping; add optimizer.fused=false"
        raise InputError(f"trainer.gradient_clip_val={clips} trainer.precision={trainer['precision']}: {reason}")
    if "gradient_clip_algorithm" in trainer and not trainer.get("gradient_clip_val"):
        algorithm = trainer["gradient_clip_algorithm"]
        raise InputError(
            f"trainer.gradient_clip_algorithm={algorithm}: clips nothing without trainer.gradient_clip_val"
        )


def check_callbacks(config: dict[str, Any]) -> None:
    """InputError for a callback that names no class, or that goes badly with other keys."""
    callbacks = config["callbacks"]
    for name, callback in callbacks.items() if isinstance(callbacks, dict) else [("", callbacks)]:
        if callback is None:
            continue
        if not _is_made(callback):
            remedy = "must be a mapping with _target_, the callback's class"
            raise InputError(f"{f'callbacks.{name}'.rstrip('.')}={callback}: {remedy}")
        kind = str(callback["_target_"]).rpartition(".")[2]
        if kind == "Instruments" and config["compile"] is True:
            reason = "its hooks see nothing inside of compiled blocks; type compile=false or auto"
            raise InputError(f"compile=true callbacks.{name}: {reason}")
        if kind == "LearningRateFinder":
            remedy = "would look for another rate after an interruption; callbacks=lr_find is the same but for that"
            raise InputError(f"callbacks.{name}: {remedy}")
        if kind == "FindLearningRate" and (rate := config["schedule"].get("max_lr")) is not None:
            reason = "the schedule sets the rate by its max_lr; leave one of them out"
            raise InputError(f"callbacks.{name} schedule.max_lr={rate}: {reason}")
        if kind.endswith("WeightAveraging"):
            if scheduled := [k for k in config["norm"].values() if k is not None and split(k)[0] in SCHEDULED]:
                remedy = "changes with the share of the training that is done, which is not averaged"
                raise InputError(f"norm {label(scheduled[0])} callbacks.{name}: {remedy}; leave one of them out")
            if config["recalibrate_bn"]:
                remedy = "measures statistics of the weights that are trained, not of averages; leave one of them out"
                raise InputError(f"recalibrate_bn=true callbacks.{name}: {remedy}")
