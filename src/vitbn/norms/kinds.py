"""Which norms there are and what options they take, without torch.

A kind is written as its name, `batch`, or with options, `{kind: ghost_batch, virtual: 32}`.
A new one is an entry of `KINDS` and of `NORMS` in `norms/table.py`, or a class of one's own, written `module.Class`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

Kind = str | Mapping[str, Any]
Option = tuple[Any, Callable[[Any], bool], str]  # default, whether a value fits, the rule in words


def is_number(value: Any) -> bool:
    """Finite, and not true or false, which Python takes for 1 and 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(default: Any) -> Option:
    return default, lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 1, "a whole number, at least 1"


def _real(default: float) -> Option:
    return default, is_number, "a number"


def _at_least(least: float, default: float) -> Option:
    return default, lambda v: is_number(v) and v >= least, f"a number, at least {least:g}"


def _share(default: float) -> Option:
    return default, lambda v: is_number(v) and 0 < v <= 1, "a share of the training, above 0 and at most 1"


_MOMENTUM: Option = 0.1, lambda v: is_number(v) and 0 < v <= 1, "a number above 0 and at most 1"

KINDS: dict[str, dict[str, Option]] = {
    "none": {},
    "layer": {},
    "batch": {"momentum": _MOMENTUM},
    "batch_scalar": {"momentum": _MOMENTUM},
    "rms": {},
    "group": {"groups": _whole(None)},
    "instance": {},
    "dyt": {"alpha": _real(0.5)},
    "derf": {"alpha": _real(0.5), "shift": _real(0.0)},
    "layer_scale": {"init": _real(0.1)},
    "batch_renorm": {
        "momentum": (0.01, *_MOMENTUM[1:]), "r_max": _at_least(1, 3.0), "d_max": _at_least(0, 5.0),
        "ramp": _share(0.25),
    },
    "ghost_batch": {"virtual": _whole(25), "momentum": _MOMENTUM},
    "power": {"momentum": _MOMENTUM},
    "rep_batch": {"momentum": _MOMENTUM, "eta": _real(1.0)},
    "prep_batch": {"momentum": _MOMENTUM, "eta": _real(1.0), "over": _share(0.8)},
}  # fmt: skip
SCHEDULED = (
    "batch_renorm",
    "prep_batch",
)  # change in the course of the training: a longer one is another from the start


def split(kind: Kind) -> tuple[str, dict[str, Any]]:
    """Name and options of a kind. ValueError for one that is not known, or an option that it cannot have."""
    if isinstance(kind, str):
        name, options = kind, {}
    elif isinstance(kind, Mapping):
        options = {str(key): value for key, value in kind.items()}
        name = options.pop("kind", None)
        if not isinstance(name, str):
            raise ValueError(f"{dict(kind)}: write {{kind: NAME, OPTION: VALUE}}")
    else:
        raise ValueError(f"unknown kind {kind!r}; choose from {', '.join(KINDS)}")
    if name not in KINDS:
        if "." not in name or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(
                f"unknown kind {name!r}; choose from {', '.join(KINDS)}, or module.Class for one of your own"
            )
        return name, options
    for option, value in options.items():
        if option not in KINDS[name]:
            known = f"it has {', '.join(KINDS[name])}" if KINDS[name] else "it has none"
            raise ValueError(f"{name} has no option {option!r}; {known}")
        default, fits, rule = KINDS[name][option]
        if not fits(value) and value != default:
            raise ValueError(f"{option}={value} of {name}: must be {rule}")
    return name, options


def normal_form(kind: Kind) -> str | dict[str, Any]:
    """The one way to write it: without options of default values, alone without any. ValueError as `split`."""
    name, options = split(kind)
    defaults = {option: default for option, (default, *_) in KINDS.get(name, {}).items()}
    typed = {
        option: float(value) if isinstance(defaults.get(option), float) else value
        for option, value in sorted(options.items())
        if option not in defaults or value != defaults[option]
    }
    return {"kind": name, **typed} if typed else name


def label(kind: Any) -> str:
    """How tables and messages call a kind, known or not: `ghost_batch(virtual=64)`."""
    if not isinstance(kind, Mapping):
        return str(kind)
    options = ", ".join(f"{option}={value}" for option, value in kind.items() if option != "kind")
    return f"{kind.get('kind')}({options})" if options else str(kind.get("kind"))


def as_typed(kind: Kind) -> str:
    """The kind as a command line has it: `{kind:ghost_batch,virtual:64}`."""
    return kind if isinstance(kind, str) else f"{{{','.join(f'{key}:{value}' for key, value in kind.items())}}}"
