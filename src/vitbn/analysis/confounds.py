"""The confounder check: what differs between two paired runs beyond the thing under study."""

from collections.abc import Iterable
from functools import cache
from typing import Any

from vitbn.analysis.records import RunRecord, shortened
from vitbn.models.placements import Slot
from vitbn.store.labels import PLACEMENT, within

_ABSENT, _NOT_RECORDED = "absent", "not recorded"
_NORM_MARKS = ("norm", "bn", "ln")  # in the parts of a parameter's name
_SLOTS = frozenset(map(str, Slot))


def confounds(first: RunRecord, second: RunRecord, studied: Iterable[str] = PLACEMENT) -> list[str]:
    """One line per difference in configuration, parameters, initial weights, order, evaluation, environment.

    `studied` are the configuration keys (or prefixes) that are meant to differ; with the placement among
    them, parameters of norms may differ too.
    """
    studied = tuple(studied)
    return [
        *_configuration(first, second, studied),
        *_parameters(first, second, placement=any(key in PLACEMENT for key in studied)),
        *_hashes(first, second),
        *_environment(first, second, studied),
    ]


def tally(pairs: Iterable[tuple[RunRecord, RunRecord]], studied: Iterable[str] = PLACEMENT) -> dict[str, int]:
    """Every confound line with the number of pairs that show it."""
    studied = tuple(studied)
    counts: dict[str, int] = {}
    for first, second in pairs:
        for line in confounds(first, second, studied):
            counts[line] = counts.get(line, 0) + 1
    return counts


def studied_keys(first: dict[str, Any], second: dict[str, Any]) -> tuple[str, ...]:
    """What two arms' filters mean to vary; a network or norm that varies brings the whole placement."""
    keys = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    return (*sorted(keys), *(PLACEMENT if any(within(key, PLACEMENT) for key in keys) else ()))


def _configuration(first: RunRecord, second: RunRecord, studied: tuple[str, ...]) -> list[str]:
    one, two = first.compared, second.compared
    keys = (one.keys() | two.keys()) - first.environment.keys() - second.environment.keys()  # no difference twice
    return [
        f"configuration {key}: {first.config.get(key, _ABSENT)} / {second.config.get(key, _ABSENT)}"
        for key in sorted(keys)
        if not within(key, studied) and one.get(key, _ABSENT) != two.get(key, _ABSENT)
    ]


def _parameters(first: RunRecord, second: RunRecord, placement: bool) -> list[str]:
    lines = []
    one, two = (run.fingerprint.get("weights") or {} for run in (first, second))
    only = [name for name in sorted(one.keys() ^ two.keys()) if not (placement and _is_norm(name))]
    if one and two and only:
        lines.append(f"parameters in one arm only: {shortened(only)}")
    counts = [run.fingerprint.get("parameters") for run in (first, second)]
    if None not in counts and counts[0] != counts[1] and (only or not placement or not (one and two)):
        lines.append(f"parameter counts: {counts[0]:,} / {counts[1]:,}")
    if first.seed == second.seed:
        unequal = [name for name in one if name in two and one[name] != two[name]]
        unequal = [name for name in unequal if not (placement and _is_norm(name))]
        if unequal:
            lines.append(f"initial weights of equal name: {shortened(unequal)}")
    return lines


def _hashes(first: RunRecord, second: RunRecord) -> list[str]:
    one, two = first.fingerprint, second.fingerprint
    if bool(one) != bool(two):
        return [f"fingerprint (weights, order, evaluation): {_recorded(one)} / {_recorded(two)}"]
    names = {"val": "evaluation (draw of the validation images)"}
    if first.seed == second.seed:
        names["order"] = "order of the training images"
    return _differences(one, two, names)


def _environment(first: RunRecord, second: RunRecord, studied: tuple[str, ...]) -> list[str]:
    """Matmul precision, versions, hardware; what only one of the two recorded may differ and is named too."""
    one, two = first.environment, second.environment
    if bool(one) != bool(two):
        return [f"environment (matmul precision, versions, hardware): {_recorded(one)} / {_recorded(two)}"]
    one, two = (run.environment | {"parts": _in_words(run.result.get("parts"))} for run in (first, second))
    keys = [key for key in sorted(one.keys() | two.keys()) if not within(key, studied)]
    names = {key: key.replace("versions.", "version of ") for key in keys}
    return _differences(one, two, names | {"parts": "parts of a resumed run"})


def _in_words(parts: Any) -> str:
    """What changed in a run that was resumed elsewhere, and after which steps."""
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        return "one"
    changed = sorted({key for part in parts for key in part if key != "from_step" and part[key] != parts[0].get(key)})
    return "; ".join(
        f"{', '.join(str(part.get(key)) for key in changed)} after step {part.get('from_step')}" for part in parts
    )


def _differences(one: dict[str, Any], two: dict[str, Any], names: dict[str, str]) -> list[str]:
    return [
        f"{name}: {one.get(key, _NOT_RECORDED)} / {two.get(key, _NOT_RECORDED)}"
        for key, name in names.items()
        if one.get(key) != two.get(key)
    ]


def _recorded(record: dict[str, Any]) -> str:
    return "recorded" if record else _NOT_RECORDED


@cache  # asked for every parameter of every pair
def _is_norm(name: str) -> bool:
    pieces = name.lower().split(".")
    words = [word.rstrip("0123456789") for piece in pieces for word in piece.split("_")]  # norm_before, ln_1
    return any(piece in _SLOTS for piece in pieces) or any(word.endswith(_NORM_MARKS) for word in words)
