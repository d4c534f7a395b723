"""Typed keys that nothing reads: they would only give a second name to the same training."""

from collections.abc import Sequence
from typing import Any

from vitbn.config.compose import CONF, Schema, chosen_file
from vitbn.config.messages import parse, unknown_key
from vitbn.errors import InputError
from vitbn.models.placements import OF_LIBRARIES, WITHOUT_SLOTS, named_placements


def check_use(config: dict[str, Any], typed: Sequence[str]) -> None:
    """InputError for a key that nothing reads: it would only give a second name to the same training."""
    model = config["model"]
    for override in parse(typed):
        key = override.key_or_group
        if override.is_add() or override.is_force_add():
            _check_added(config, key, str(override.input_line))
        if key == "model.name" and "library" not in model:
            raise InputError(f"{override.input_line}: choose a network by model=NAME")
        if key == "norm" and "placement" in model and override.value() in (*WITHOUT_SLOTS, *OF_LIBRARIES):
            choices = ", ".join(named_placements())
            raise InputError(f"{override.input_line}: has no norms for model={model['name']}; choose from {choices}")
        if key in ("depth", "pool", "pos_emb") and key not in model:
            users = ", ".join(
                sorted({path.stem for path in (CONF / "model").glob("*.yaml")} - {*WITHOUT_SLOTS, *OF_LIBRARIES})
            )
            raise InputError(
                f"{key}={config[key]}: model={model['name']} has no use for it, only {users} have; leave it out"
            )


def _check_added(config: dict[str, Any], key: str, typed: str) -> None:
    """InputError if a key typed with + is one that a file of conf/ would have listed if anything read it."""
    root, *rest = key.split(".")
    if root not in Schema.__dataclass_fields__ and root not in ("hydra", "experiment", "search"):
        raise InputError(unknown_key(typed, root, {name: config[name] for name in Schema.__dataclass_fields__}))
    if root in ("model", "data") and rest and "library" not in config[root]:
        known = set(chosen_file(root, config[root]))
        if known and rest[0] not in known:
            siblings = dict.fromkeys(sorted(known)) | {"name": config[root]["name"]}
            raise InputError(unknown_key(typed, f"{root}.{rest[0]}", siblings))
