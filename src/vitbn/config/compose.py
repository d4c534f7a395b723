"""The keys people type: their types and choices.

Nothing here imports torch: a mistyped key must be reported within a second.
"""

import copy
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from vitbn.config.trainer import TrainerConfig, with_flags_understood
from vitbn.data import torchvision_table
from vitbn.data.folder import scan
from vitbn.models.placements import OF_LIBRARIES, WITHOUT_SLOTS, Pool, PosEmb, Slot, complete
from vitbn.norms.kinds import normal_form
from vitbn.resources import resource_folder
from vitbn.store.run import run_id

CONF = resource_folder("conf")


class MatmulPrecision(StrEnum):
    """`torch.set_float32_matmul_precision`."""

    highest = "highest"
    high = "high"
    medium = "medium"


class Keep(StrEnum):
    """Which checkpoints of a finished run stay."""

    best = "best"
    last = "last"
    all = "all"
    none = "none"


@dataclass
class CheckpointConfig:
    """When to write checkpoints besides the end of every epoch, and which to keep in the end."""

    every_minutes: float = 10.0
    keep: Keep = Keep.all


@dataclass
class Schema:
    """Root of the configuration; values and comments stand in conf/config.yaml."""

    model: Any = MISSING
    norm: dict[Slot, Any] = field(default_factory=lambda: {**complete({})})
    data: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)  # type: ignore[valid-type]
    callbacks: Any = MISSING
    logger: Any = field(default_factory=dict)
    depth: int | None = MISSING
    lr: float = MISSING
    pool: Pool = MISSING
    pos_emb: PosEmb = MISSING
    seed: int = MISSING
    study: str = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    val_batch_size: int = MISSING
    compile: Any = MISSING
    label_smoothing: float = MISSING
    mixup: float = MISSING
    cutmix: float = MISSING
    matmul_precision: MatmulPrecision = MatmulPrecision.highest
    threads: int | None = None
    recalibrate_bn: bool = MISSING
    rerun: bool = MISSING
    fail_fast: bool = MISSING
    test_train_mode: bool = MISSING
    stop_stuck: int = MISSING
    log_every: int = MISSING
    runs: str = MISSING
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


def register() -> None:
    """Tell Hydra the schema and OmegaConf the resolvers that conf/ uses."""
    store = ConfigStore.instance()
    store.store(name="vitbn_schema", node=Schema)
    for name in WITHOUT_SLOTS:  # Hydra wants a norm of every model's name
        store.store(group="norm", name=name, node={})
    for name in OF_LIBRARIES:
        store.store(group="norm", name=name, node=dict.fromkeys(map(str, Slot)))
    OmegaConf.register_new_resolver(
        "run_id", lambda *, _root_: run_id(to_plain_dict(_root_, without=("hydra", "logger"))), replace=True
    )  # `_root_` is how OmegaConf hands a resolver the whole configuration; a logger may ask for the ID
    OmegaConf.register_new_resolver(
        "study", lambda *, _root_: to_plain_dict(_root_, without=("hydra", "logger"))["study"], replace=True
    )
    OmegaConf.register_new_resolver("own_conf", own_conf, replace=True)
    OmegaConf.register_new_resolver("folder_classes", lambda root: len(scan(root).classes), replace=True)
    OmegaConf.register_new_resolver("folder_holdout", lambda root: scan(root).default_holdout, replace=True)
    OmegaConf.register_new_resolver("folder_content", lambda root: scan(root).content, replace=True)
    OmegaConf.register_new_resolver("torchvision", torchvision_table.default, replace=True)
    OmegaConf.register_new_resolver("patch_size", patch_size, replace=True)


def patch_size(side: Any, source: str | None) -> int:
    """The article's 7 where 7 divides the images' side, or else 8 x 8 patches where 8 does; of photographs 16."""
    if source == "folder" and isinstance(side, int) and side % 16 == 0 and side >= 128:
        return 16  # 7 pixels of 224 would make 1,025 tokens
    return 7 if not isinstance(side, int) or side % 7 == 0 or side % 8 else side // 8


def own_conf() -> list[str]:
    """./conf of another checkout than ours, as Hydra's search path wants it.

    Hydra looks there last, so that a project that has nothing to do with vitbn only adds choices and replaces none.
    """
    folder = Path("conf").resolve()
    return [f"file://{folder}"] if folder.is_dir() and folder != CONF else []


register()  # when imported: a launcher's worker imports what the job refers to, but never composes a configuration


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The configuration that `vitbn train` would have with these overrides, not yet checked."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def to_plain_dict(config: DictConfig, without: Sequence[str] = ("hydra",)) -> dict[str, Any]:
    """The configuration without Hydra's own part, resolved, as plain dicts, strings and numbers."""
    kept = [str(key) for key in config if key not in without]
    tree = OmegaConf.masked_copy(config, kept) if len(kept) < len(config) else config
    if (epochs := OmegaConf.select(tree, "trainer.max_epochs")) is not None:  # Lightning's word, for ${epochs}, too
        tree = copy.deepcopy(tree) if tree is config else tree
        OmegaConf.update(tree, "epochs", epochs)
    plain: Any = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True, enum_to_str=True)
    return with_flags_understood(with_kinds_in_normal_form(with_numbers_as_in_files(plain)))


def with_numbers_as_in_files(config: dict[str, Any]) -> dict[str, Any]:
    """A whole number where conf/ has a fraction is one: `model.dropout=0` is no other run than 0.0."""
    for group in ("model", "data"):
        options = config.get(group)
        if not isinstance(options, dict):
            continue
        for key, default in chosen_file(group, options).items():
            if isinstance(default, float) and type(options.get(key)) is int:
                options[key] = float(options[key])
    return config


def chosen_file(group: str, options: dict[str, Any]) -> dict[str, Any]:
    """What the file of a chosen network or data set says."""
    return file_values(group, str(options.get("library") or options.get("name")))


@cache
def file_values(group: str, name: str) -> dict[str, Any]:
    """What conf/<group>/<name>.yaml and the files it builds on say, unresolved; empty for a file from elsewhere."""
    path = CONF / group / f"{name}.yaml"
    if not path.is_file():
        return {}
    content = yaml.safe_load(path.read_text()) or {}
    values: dict[str, Any] = {}
    for base in content.pop("defaults", ()):
        values |= {} if base == "_self_" else file_values(group, str(base))
    return values | content


def with_kinds_in_normal_form(config: dict[str, Any]) -> dict[str, Any]:
    """A kind of norm has one way to be written: `{kind: batch}` is no other run. What is wrong stays as it is."""
    model = config.get("model")
    placements: list[Any] = [config.get("norm"), model.get("placement") if isinstance(model, dict) else None]
    for placement in filter(None, placements):
        for slot, kind in placement.items():
            with suppress(ValueError):
                placement[slot] = normal_form(kind)
    return config
