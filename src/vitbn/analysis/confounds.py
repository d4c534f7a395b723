"""The confound guard: what differs between two paired runs beyond the thing under study."""

from collections.abc import Iterable
from functools import cache
from typing import Any

from vitbn.analysis.arms import PLACEMENT
from vitbn.analysis.records import Run, some, within

_ABSENT = "absent"
_NORM_MARKS = ("norm", "bn", "ln")  # in the parts of a parameter's name
_SLOTS = (
    "embed_in", "embed_out", "attn_in", "attn_out", "qk", "ffn_in", "ffn_hidden", "ffn_act", "ffn_out",
    "final",
)  # fmt: skip


def confounds(first: Run, second: Run, studied: Iterable[str] = PLACEMENT) -> list[str]:
    """One line per difference in configuration, parameters, initial weights, order, evaluation, environment.

    `studied` are the configuration keys (or prefixes) that are meant to differ; with the placement among
    them, parameters of norms may differ too.
    """
    studied = tuple(studied)
    return [
        *_configuration(first, second, studied),
        *_parameters(first, second, placement=any(key in PLACEMENT for key in studied)),
        *_hashes(first, second),
        *_environment(first, second),
    ]


def tally(pairs: Iterable[tuple[Run, Run]], studied: Iterable[str] = PLACEMENT) -> dict[str, int]:
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


def _configuration(first: Run, second: Run, studied: tuple[str, ...]) -> list[str]:
    one, two = first.compared, second.compared
    return [
        f"configuration {key}: {first.config.get(key, _ABSENT)} / {second.config.get(key, _ABSENT)}"
        for key in sorted(one.keys() | two.keys())
        if not within(key, tuple(studied)) and one.get(key, _ABSENT) != two.get(key, _ABSENT)
    ]


def _parameters(first: Run, second: Run, placement: bool) -> list[str]:
    lines = []
    one, two = (run.fingerprint.get("weights") or {} for run in (first, second))
    only = [name for name in sorted(one.keys() ^ two.keys()) if not (placement and _is_norm(name))]
    if one and two and only:
        lines.append(f"parameters in one arm only: {some(only)}")
    counts = [run.fingerprint.get("parameters") for run in (first, second)]
    if None not in counts and counts[0] != counts[1] and (only or not placement or not (one and two)):
        lines.append(f"parameter counts: {counts[0]:,} / {counts[1]:,}")
    if first.seed == second.seed:
        unequal = [name for name in one if name in two and one[name] != two[name]]
        unequal = [name for name in unequal if not (placement and _is_norm(name))]
        if unequal:
            lines.append(f"initial weights of equal name: {some(unequal)}")
    return lines


def _hashes(first: Run, second: Run) -> list[str]:
    names = {"val": "evaluation (draw of the validation images)"}
    if first.seed == second.seed:
        names["order"] = "order of the training images"
    return [
        f"{text}: {first.fingerprint[key]} / {second.fingerprint[key]}"
        for key, text in names.items()
        if key in first.fingerprint and key in second.fingerprint and first.fingerprint[key] != second.fingerprint[key]
    ]


def _environment(first: Run, second: Run) -> list[str]:
    """Versions and hardware, where both runs recorded them (a diverged one may not)."""
    one, two = (run.result.get("versions") or {} for run in (first, second))
    lines = [f"version of {name}: {one[name]} / {two[name]}" for name in one if one[name] != two.get(name, one[name])]
    hardware = [run.result.get("hardware") for run in (first, second)]
    if None not in hardware and hardware[0] != hardware[1]:
        lines.append(f"hardware: {hardware[0]} / {hardware[1]}")
    return lines


@cache  # asked for every parameter of every pair
def _is_norm(name: str) -> bool:
    pieces = [piece.lower() for piece in name.split(".")]
    return any(piece in _SLOTS or piece.rstrip("0123456789").endswith(_NORM_MARKS) for piece in pieces)
