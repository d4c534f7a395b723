"""Checks of the values people type: one clear line for the first that cannot be trained. Imports no torch."""

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from vitbn.config.compose import chosen_file
from vitbn.config.overrides import check_use
from vitbn.config.ranges import (
    Range,
    counting,
    fraction,
    natural,
    not_negative,
    number,
    one_of,
    per_channel,
    positive,
    require,
    share,
    text,
)
from vitbn.config.signatures import check_options
from vitbn.config.trainer_checks import TRAINER_RANGES, check_callbacks, check_trainer
from vitbn.data.files import local_folder
from vitbn.data.folder import scan
from vitbn.errors import InputError
from vitbn.models.placements import PosEmb
from vitbn.norms.kinds import KINDS, label, split
from vitbn.weights.hub import RULE, is_place

DEFAULT_VIRTUAL = KINDS["ghost_batch"]["virtual"][0]
RANGES: dict[str, Range] = {
    **TRAINER_RANGES,
    "depth": counting,
    "lr": positive,
    "seed": natural,
    "epochs": counting,
    "batch_size": counting,
    "val_batch_size": counting,
    "threads": counting,
    "compile": (lambda v: isinstance(v, bool) or v == "auto", "must be true, false or auto"),
    "stop_stuck": natural,
    "log_every": natural,
    "data.name": text,
    "data.root": text,
    "data.num_classes": counting,
    "data.mean": per_channel(number),
    "data.std": per_channel(positive),
    "data.augment": one_of(True, False, "crop", "pad_crop", "pad_crop_flip"),
    "data.channels": one_of(1, 3),
    "data.image_size": counting,
    "data.cache_size": counting,
    "data.size": one_of(160, 320, "full"),
    "data.on_bad_image": one_of("error", "skip"),
    "label_smoothing": fraction,
    "mixup": not_negative,
    "cutmix": not_negative,
    "optimizer.decay_weights_only": one_of(True, False),
    "optimizer.fused": one_of(True, False),
    "optimizer.momentum": fraction,
    "optimizer.weight_decay": not_negative,
    "schedule.every": counting,
    "schedule.factor": share,
    "schedule.warmup": share,
    "schedule.floor": share,
    "schedule.interval": one_of("step", "epoch"),
    "checkpoint.every_minutes": positive,
    "runs": (
        lambda v: "://" not in v and not v.startswith("~"),
        "must be a folder of this machine, without ~ and ://; $HOME in a shell is the home folder",
    ),
    "study": (
        lambda v: bool(re.fullmatch(r"[\w.+-]+", v)) and v.strip("."),
        "must be a folder name of letters, digits, '.', '_', '+' and '-'",
    ),
    "data.holdout": (
        lambda v: natural[0](v) or (isinstance(v, float) and 0 < v < 1),
        "must be a number of images, or a share of them such as 0.2",
    ),
    "model.patch_size": counting,
    "model.dim": counting,
    "model.heads": counting,
    "model.dim_head": counting,
    "model.mlp_dim": counting,
    "model.qkv_bias": one_of(True, False),
    "model.norm_eps": positive,
    "model.dropout": fraction,
    "model.emb_dropout": fraction,
    "model.pretrained": (lambda v: v is True or (isinstance(v, str) and is_place(v)), RULE),
}


def check(config: dict[str, Any], typed: Sequence[str] = ()) -> None:
    """Raise InputError for the first value that cannot be trained, or was `typed` and means nothing to the network.

    `config` is resolved, as `to_plain_dict` returns it; `typed` are overrides.
    """
    check_use(config, typed)
    _require_readable(config)
    _check_references(config)
    for key, allowed in RANGES.items():
        require(key, _at(config, key), allowed)
    _require_values(config)
    model, data = config["model"], config["data"]
    if config["depth"] is None and "library" not in model:
        raise InputError(f"depth=null: {counting[1]}")
    devices, batch_size = config["trainer"]["devices"], config["batch_size"]
    for slot, kind in config["norm"].items():
        if kind is None and "library" in model:
            continue
        try:
            name, options = split(kind)
        except ValueError as error:
            raise InputError(f"norm.{slot}={label(kind)}: {error}") from None
        if name not in KINDS:
            _check_own_norm(name)
        if name != "none" and "placement" not in model:
            raise InputError(f"norm.{slot}={label(kind)}: model={model['name']} has no slots for norms")
        if name == "ghost_batch" and batch_size % ((virtual := options.get("virtual", DEFAULT_VIRTUAL)) * devices):
            per_process = f" on {devices} devices" if devices > 1 else ""
            remedy = f"virtual={virtual} does not divide batch_size={batch_size}{per_process}"
            raise InputError(f"norm.{slot}={label(kind)}: {remedy}")
    patch, side = model.get("patch_size"), data["image_size"]
    if patch is not None and side % patch:
        divisors = ", ".join(str(d) for d in range(1, side + 1) if side % d == 0)
        raise InputError(f"model.patch_size={patch}: does not divide the image size {side}; choose from {divisors}")
    if devices > batch_size:
        raise InputError(f"trainer.devices={devices}: more than batch_size={batch_size} images")
    _check_data(data)
    _check_loggers(config["logger"])
    _check_optimizer(config["optimizer"], config["lr"])
    _check_schedule(config["schedule"])
    check_trainer(config, typed)
    check_callbacks(config)
    if config["pos_emb"] == PosEmb.pe1d and model.get("dim", 0) % 2:
        raise InputError(f"model.dim={model['dim']}: pos_emb=pe1d needs an even number")
    if model.get("pretrained") is True and model.get("library") not in ("timm", "torchvision"):
        raise InputError(
            f"model.pretrained=true: model={model['name']} has none of its own; name a folder, a run or a hub ID"
        )
    if "library" in model:
        _check_library_network(json.dumps(model))


def _require_readable(tree: Any, key: str = "") -> None:
    """InputError for text that would make config.yaml one that is not read again."""
    if isinstance(tree, dict | list):
        for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            _require_readable(value, f"{key}.{name}".lstrip("."))
    elif isinstance(tree, str) and "${" in tree:
        raise InputError(f"{key}={tree}: must not hold '${{', which stands for another value")


def _check_references(config: dict[str, Any]) -> None:
    """InputError for a key of the network that says something else than the one it refers to, which names the run."""
    for key, value in chosen_file("model", config["model"]).items():
        reference = re.fullmatch(r"\$\{([a-z_.]+)\}", str(value))
        if reference and (own := config["model"].get(key)) != (said := _at(config, reference[1])):
            raise InputError(f"model.{key}={own}: follows {reference[1]}={said}; type {reference[1]}={own}")


def _require_values(config: dict[str, Any]) -> None:
    """InputError for a key of network, data or optimizer that is null or left out where its file says something."""
    data = config["data"]
    if missing := [key for key in ("name", "root", "augment", "image_size", "channels") if data.get(key) is None]:
        raise InputError(f"data.{missing[0]}=null: must have a value; data=NAME brings one")
    for group in ("model", "data"):
        for key, default in chosen_file(group, config[group]).items():
            if default is not None and config[group].get(key) is None and f"{group}.{key}" in RANGES:
                raise InputError(f"{group}.{key}=null: {RANGES[f'{group}.{key}'][1]}")
    for key in ("momentum", "weight_decay", "decay_weights_only"):
        if config["optimizer"].get(key, 0) is None:
            raise InputError(f"optimizer.{key}=null: {RANGES[f'optimizer.{key}'][1]}")


@cache  # the jobs of a sweep share most of theirs
def _check_library_network(model: str) -> None:
    """InputError if it cannot be made; it is, without memory for its weights. Imports torch and the library."""
    import torch

    from vitbn.models.factory import build

    with torch.device("meta"):
        build(json.loads(model), seed=0)


def _check_own_norm(name: str) -> None:
    """InputError if its class cannot be imported. Imports torch."""
    from vitbn.norms.table import import_norm

    import_norm(name)


def _check_loggers(loggers: dict[str, Any]) -> None:
    for name, options in loggers.items():
        if not isinstance(options, dict):
            raise InputError(f"logger.{name}={options}: belongs below a name of its own, as in NAME: {{_target_: …}}")
        if not isinstance(options.get("_target_"), str):
            raise InputError(f"logger.{name}: has no _target_; choose the logger first, such as logger=[{name}]")


def _at(config: dict[str, Any], key: str) -> Any:
    """The value of a dotted key, None where there is none."""
    for part in key.split("."):
        config = (config or {}).get(part)  # type: ignore[assignment]
    return config


def _check_optimizer(optimizer: dict[str, Any], lr: float) -> None:
    if not isinstance(optimizer.get("_target_"), str):
        raise InputError("optimizer._target_: name its class, such as torch.optim.RMSprop")
    if optimizer.get("lr", lr) != lr:
        raise InputError(f"optimizer.lr={optimizer['lr']}: the learning rate is the key lr={lr:g}; type that")
    ours = ("_target_", "_partial_", "decay_weights_only")
    check_options("optimizer", {**optimizer, "lr": lr}, given=("params",), ours=ours)


OWN_SCHEDULES = {None: {"warmup"}, "step": {"every", "factor", "warmup"}, "cosine": {"floor", "warmup"}}
WITHOUT_WARMUP = (
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "LambdaLR",
)  # set the rate, whatever it was


def _check_schedule(schedule: dict[str, Any]) -> None:
    target, interval = schedule.get("_target_"), schedule.get("interval") or "epoch"
    if target is None:
        name = schedule.get("name")
        if name not in OWN_SCHEDULES:
            raise InputError(f"schedule.name={name}: choose from step, cosine, null, or name a class with _target_")
        if unknown := [key for key in schedule if key != "name" and key not in OWN_SCHEDULES[name]]:
            choices = ", ".join(f"schedule.{key}" for key in sorted(OWN_SCHEDULES[name]))
            raise InputError(f"schedule.{unknown[0]}: unknown key; this schedule has {choices}")
        if missing := sorted(key for key in OWN_SCHEDULES[name] - {"warmup"} if schedule.get(key) is None):
            key = f"schedule.{missing[0]}"
            raise InputError(f"{key}=null: {RANGES[key][1]}; schedule={name} brings one")
        return
    ours = ("_target_", "_partial_", "name", "interval", "monitor", "warmup")
    check_options("schedule", schedule, given=("optimizer",), ours=ours)
    kind = str(target).rpartition(".")[2]
    counted = next((key for key, value in schedule.items() if value == "steps"), None)
    if counted and interval == "epoch":
        raise InputError(f"schedule.{counted}=steps: the scheduler counts epochs; type schedule.interval=step")
    if kind == "ReduceLROnPlateau" and interval == "step":
        raise InputError("schedule.interval=step: ReduceLROnPlateau looks at what an epoch has measured; choose epoch")
    if kind != "ReduceLROnPlateau" and schedule.get("monitor"):
        raise InputError(f"schedule.monitor={schedule['monitor']}: {kind} looks at no measurement; leave it out")
    if schedule.get("warmup") and kind == "OneCycleLR":
        raise InputError(f"schedule.warmup={schedule['warmup']}: OneCycleLR has one of its own, schedule.pct_start")
    if schedule.get("warmup") and interval == "epoch" and kind in WITHOUT_WARMUP:
        raise InputError(f"schedule.warmup={schedule['warmup']}: {kind} would undo it; type schedule.interval=step")


def _check_data(data: dict[str, Any]) -> None:
    local_folder(data["root"])
    for key in ("mean", "std"):
        value = data.get(key)
        if isinstance(value, list) and len(value) != data["channels"]:
            remedy = f"type one number, or {data['channels']} for data.channels={data['channels']}"
            raise InputError(f"data.{key}={value}: {remedy}")
    side, cached = data["image_size"], data.get("cache_size", data["image_size"])
    if data.get("augment") is True and cached != side:
        raise InputError(f"data.cache_size={cached}: data.augment=true needs images of the network's size, {side}")
    if data.get("source") == "folder":
        scan(data["root"]).require_validation(data.get("holdout", 0))
