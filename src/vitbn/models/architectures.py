"""The networks of conf/model/ from descriptions that anybody may have written: by name, from checked plain values."""

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

from torch import nn

from vitbn.models.placements import OF_LIBRARIES, Pool, PosEmb, complete
from vitbn.norms.kinds import is_number, split

VISION_TRANSFORMERS = ("VisionTransformer", "ViT", "ViTBNFFN", "ViTBN")
# what the constructor knows for the article's networks, and a file must say: weights do not tell their heads
SIZES = ("image_size", "patch_size", "num_classes", "channels", "dim", "depth", "heads", "dim_head", "mlp_dim")
MODULES = {
    **dict.fromkeys(VISION_TRANSFORMERS, "vitbn.models.vit"),
    "MLP": "vitbn.models.mlp",
    **dict.fromkeys(("alexnet", "vgg16", "resnet34"), "vitbn.models.published"),
    "library_network": "vitbn.models.libraries",
}

Rule = tuple[Callable[[Any], bool], str]


def _whole(least: int, most: int) -> Rule:
    return (lambda v: type(v) is int and least <= v <= most), f"a whole number from {least} to {most:,}"


def _one_of(*choices: str) -> Rule:
    return (lambda v: isinstance(v, str) and v in choices), f"one of {', '.join(choices)}"


def _is_placement(value: Any) -> bool:
    """ValueError lists the slots and the kinds."""
    return isinstance(value, Mapping) and bool(complete(value))


def _is_kind(value: Any) -> bool:
    """ValueError lists the kinds."""
    return bool(split(value))


_FRACTION: Rule = (lambda v: is_number(v) and 0 <= v < 1, "a number in [0, 1)")
_WIDTH = _whole(1, 2**20)

OPTIONS: dict[str, Rule] = {
    "image_size": _whole(1, 4096),
    "patch_size": _whole(1, 4096),
    "channels": _whole(1, 1024),
    "num_classes": _whole(0, 2**20),
    "dim": _WIDTH,
    "depth": _whole(1, 250),
    "heads": _WIDTH,
    "dim_head": _WIDTH,
    "mlp_dim": _WIDTH,
    "pool": _one_of(*Pool),
    "pos_emb": _one_of(*PosEmb),
    "dropout": _FRACTION,
    "emb_dropout": _FRACTION,
    "qkv_bias": (lambda v: isinstance(v, bool), "true or false"),
    "norm_eps": (lambda v: is_number(v) and v > 0, "a number above 0"),
    "placement": (_is_placement, "slots with their kinds"),
    "hidden": (
        lambda v: isinstance(v, list) and len(v) <= 100 and all(map(_WIDTH[0], v)),
        f"at most 100 widths, each {_WIDTH[1]}",
    ),
    "activation": _one_of("relu", "sigmoid"),
    "norm": (_is_kind, "a kind of norm"),
    "norm_at": _one_of("pre", "post"),
    "library": _one_of(*OF_LIBRARIES),
    "name": (lambda v: isinstance(v, str) and bool(re.fullmatch(r"[\w.-]{1,100}", v)), "the name of a network"),
}


def architecture(target: str) -> str:
    """The name in MODULES of a `_target_` of this package, wherever the class stood when it was written down.

    ValueError for every other `_target_`; nothing is imported.
    """
    package, _, name = target.rpartition(".")
    if package.partition(".")[0] != "vitbn" or name not in MODULES:
        raise ValueError(f"{target[:100]} is not a network of vitbn, and nothing else is made or imported for a file")
    return name


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """ValueError for the first option that the architecture does not have, or of a value that it cannot have."""
    known = _parameters(name)
    passes_on = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in known.values())
    for option, value in options.items():
        if option not in known and passes_on:
            continue  # which is checked where it is passed on
        if option not in known:
            raise ValueError(f"unknown option {option!r} of {name}; it has {', '.join(known)}")
        fits, rule = OPTIONS[option]
        if not fits(value):
            raise ValueError(f"{option}={str(value)[:60]}: must be {rule}")


def build_known(name: str, options: Mapping[str, Any]) -> nn.Module:
    """The network of a name in MODULES; ValueError names an option that is unknown, missing or does not fit.

    Its weights are those of its constructor, to be replaced.
    """
    check_options(name, options)
    required = SIZES if name in VISION_TRANSFORMERS else [
        option for option, p in _parameters(name).items()
        if p.default is Parameter.empty and p.kind is not Parameter.VAR_KEYWORD
    ]  # fmt: skip
    if missing := [option for option in required if option not in options]:
        raise ValueError(f"{name} needs {', '.join(missing)}")
    if name in VISION_TRANSFORMERS and "placement" in options:
        options = {**options, "placement": complete(options["placement"])}  # in a file a slot left out has no norm
    return _constructor(name)(**options)


def _constructor(name: str) -> Callable[..., nn.Module]:
    return getattr(import_module(MODULES[name]), name)


def _parameters(name: str) -> Mapping[str, Parameter]:
    return signature(_constructor(name)).parameters
