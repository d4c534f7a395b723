"""What tells runs apart, and how tables, loggers and the report call it. Imports no torch.

Configurations are flat here: `{"model.name": "vit", "optimizer.lr": 0.003, …}`, as `flatten` makes them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vitbn.models.placements import Slot, named, named_placements
from vitbn.norms.kinds import label
from vitbn.store.run import ONLOOKERS, UNHASHED, is_set, unpooled

FlatConfig = Mapping[str, Any]
AXES = ("depth", "lr", "seed")
PLACEMENT = ("norm", "model.name", "model.library", "model._target_", "model.placement", "model.norm",
             "model.batch_norm")  # fmt: skip
NAMES = {
    "vit": "ViT", "vitbnffn": "ViTBNFFN", "vitbn": "ViTBN", "vitbn_scalar": "ViTBN scalar",
    "dnn": "DNN", "dnn_bn": "DNN + BN",
    "mlp": "MLP", "mlp_bn": "MLP + BN",
}  # fmt: skip
KINDS = (".name", "._target_")  # keys that say which data set, optimizer, … the other keys of their group belong to
_ABSENT = object()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted keys; lists become tuples, and a norm with options its label."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and prefix in ("norm.", "model.placement."):
            flat[f"{prefix}{key}"] = label(value)
        elif isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = _hashable(value)
    return flat


def _hashable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


@cache  # asked for every key of every run
def within(key: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a dotted key is one of the prefixes or lies below one."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def without_repetitions(config: FlatConfig) -> dict[str, Any]:
    """What can change a result, once: `model.x` and `optimizer.x` go where they repeat `x` or `data.x`.

    A key that is null, false or neutral counts as absent, as it does in a run's identity: older runs do not have it.
    """
    callbacks = (key.removesuffix("._target_") for key, value in config.items() if value in ONLOOKERS)
    passive = (*UNHASHED, "hydra", *callbacks)
    return unpooled(config.get("trainer.devices"), config.get("trainer.sync_batchnorm")) | {
        key: value
        for key, value in config.items()
        if is_set(value, key) and not within(key, passive) and _adds(config, key, value)
    }


def _adds(config: FlatConfig, key: str, value: Any) -> bool:
    group, _, name = key.partition(".")
    repeated = (config.get(name, _ABSENT), config.get(f"data.{name}", _ABSENT))
    if group in ("model", "optimizer") and key != "model.name" and value in repeated:
        return False
    if name.endswith("_target_") and group != "callbacks" and str(value).startswith("vitbn."):
        return False  # code may move, and `name` says which it is
    return not (group == "norm" and f"model.placement.{name}" in config)


def varying(configs: Iterable[FlatConfig]) -> list[str]:
    """Keys with more than one value (or present only at times), without the axes and the placement.

    Where the optimizer varies, what belongs to one optimizer alone does not count; likewise data sets and schedules.
    Nor does a key of the network that follows from another one.
    """
    configs = list(configs)
    keys = sorted(key for key in _differing(configs) if key not in AXES and not within(key, PLACEMENT))
    typed = [key for key in keys if not key.startswith("model.")]
    return [key for key in keys if key in typed or not any(_follows(configs, key, other) for other in typed)]


def _follows(configs: Sequence[FlatConfig], key: str, other: str) -> bool:
    """Whether the other key's value decides this one's, as an image size decides a patch size."""
    pairs = {(str(config.get(other)), str(config.get(key))) for config in configs}
    return len(pairs) == len({value for value, _ in pairs})


def _differing(configs: Sequence[FlatConfig]) -> set[str]:
    differing = {key for key in set().union(*configs) if len({str(config.get(key)) for config in configs}) > 1}
    kinds = sorted(key for key in differing if key.endswith(KINDS))
    if not kinds:
        return differing
    of_kind: dict[tuple[str, ...], list[FlatConfig]] = {}
    for config in configs:
        of_kind.setdefault(tuple(str(config.get(key)) for key in kinds), []).append(config)
    within_a_kind = set().union(*map(_differing, of_kind.values()))
    groups = {key.partition(".")[0] for key in kinds}
    return {key for key in differing if key in kinds or key in within_a_kind or key.partition(".")[0] not in groups}


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Key -> what heads its column: its last part (`optimizer` for `optimizer._target_`), or all where two agree."""
    short = {key: key.rpartition(".")[0] if key.endswith(KINDS) else key.rpartition(".")[2] for key in keys}
    taken = [*short.values(), *AXES, "model"]
    return {key: name if taken.count(name) == 1 else key for key, name in short.items()}


def short_value(key: str, value: Any) -> Any:
    """The value as tables show it: `Adam` for `torch.optim.Adam`."""
    return str(value).rpartition(".")[2] if key.endswith("._target_") and value is not None else value


def placements(configs: Sequence[FlatConfig]) -> list[str]:
    """Per configuration the network's name, and where its norms differ from its own: `ViT attn_out=batch`."""
    of_model: dict[str, list[FlatConfig]] = {}
    for config in configs:
        if not config.get("model.library"):
            of_model.setdefault(str(config.get("model.name")), []).append(config)
    differing = {
        model: [key for key in sorted(_differing(members)) if within(key, PLACEMENT) and not key.startswith("norm.")]
        for model, members in of_model.items()
        if model not in named_placements()
    }
    return [_placement(config, differing.get(str(config.get("model.name")), [])) for config in configs]


def network_name(config: FlatConfig) -> str:
    """The network as tables call it, without its norms: `timm resnet18` for one of another library."""
    model = str(config.get("model.name"))
    return f"{config['model.library']} {model}" if config.get("model.library") else NAMES.get(model, model)


def _placement(config: FlatConfig, differing: Sequence[str]) -> str:
    """`differing`: what varies among the runs of a network that has no placement of its own."""
    model, name = str(config.get("model.name")), network_name(config)
    if config.get("model.library"):
        kinds = {str(slot): config.get(f"model.placement.{slot}") for slot in Slot}
        return " ".join([name, *(f"{slot}={kind}" for slot, kind in kinds.items() if kind is not None)])
    if model not in named_placements() or "model.placement.final" not in config:
        return " ".join([name, *(f"{key.rpartition('.')[2]}={config.get(key, False)}" for key in differing)])
    kinds = {str(slot): config.get(f"model.placement.{slot}", "none") for slot in Slot}
    placed = _labelled_placements()
    own = placed[model]
    if kinds == own:
        return name
    same = [other for other, placement in placed.items() if placement == kinds]
    changes = [f"{slot}={kind}" for slot, kind in kinds.items() if own[slot] != kind]
    return " ".join([name, *([f"norm={same[0]}"] if same else changes)])


@cache
def _labelled_placements() -> dict[str, dict[str, str]]:
    """Name of a placement -> slot -> label of its kind."""
    return {name: {slot: label(kind) for slot, kind in named(name).items()} for name in named_placements()}


def labels(configs: Sequence[FlatConfig]) -> list[dict[str, Any]]:
    """Per configuration what tells it from the others: model with placement, data, depth, lr, what else varies, seed.

    None where a network lacks the key, such as the depth of a ResNet.
    """
    compared = [without_repetitions(config) for config in configs]
    told = ["data.name"]
    if len({(data_name(c), c.get("data.content")) for c in configs}) == len({data_name(c) for c in configs}):
        told.append("data.content")
    names = {key: name for key, name in short_names(varying(compared)).items() if key not in told}
    return [
        {
            "model": placement,
            "data": data_name(config),
            "depth": depth_of(config),
            "lr": config.get("lr"),
            **{name: short_value(key, config.get(key)) for key, name in names.items()},
            "seed": config.get("seed"),
        }
        for placement, config in zip(placements(configs), configs, strict=True)
    ]


def data_name(config: FlatConfig) -> str | None:
    """The data set's name; for a folder of images the folder's."""
    root = str(config.get("data.root") or "")
    return Path(root).name or "folder" if config.get("data.name") == "folder" else config.get("data.name")


def depth_of(config: FlatConfig) -> int | None:
    """Encoder blocks; None for a network that has none (the key `depth` is set for every network)."""
    return config.get("depth") if "model.depth" in config else None
