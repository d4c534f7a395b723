"""Published statements as data, `claims/*.yaml`, and the rule that turns an effect into a verdict.

A claim names its arms (configuration filters) and has parts. Each part states one effect and the region it must lie in.
A filter value may be a list: any of them. The interval of the last look (`looks.py`) wholly inside the region:
SUPPORTED; wholly outside: REFUTED; across its edge, or no look yet: INCONCLUSIVE; no runs: NOT RUN. `verdict.py` holds
claims against runs.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from vitbn.analysis.instruments import MEASURED
from vitbn.analysis.records import EPOCH_METRICS, METRICS
from vitbn.analysis.stats import NO_RUNS, Interval
from vitbn.errors import InputError
from vitbn.resources import resource_folder
from vitbn.store.labels import NAMES

SUPPORTED, REFUTED, INCONCLUSIVE, NOT_RUN = "SUPPORTED", "REFUTED", "INCONCLUSIVE", "NOT RUN"
CLAIMS = resource_folder("claims")
# kind -> the keys it needs; docs/report.md says what it measures
KINDS: dict[str, tuple[str, ...]] = {
    "difference": ("a", "b", "metric"),  # a - b
    "level": ("a", "metric", "than"),  # a
    "drop": ("a", "metric", "from", "to", "than"),  # a at `from` - a at `to`
    "drop_difference": ("a", "b", "metric", "from", "to"),  # drop of a - drop of b
    "diverged_share": ("a", "than"),  # diverged runs of a / finished runs of a
    "critical_depth": ("a", "b", "metric", "where"),  # depth from which a is ahead of b
    "critical_depth_fall": ("a", "b", "metric", "from", "to"),  # critical depth at `from`, and at `to`
    "overtakes": ("a", "b", "metric"),  # epoch from which a is ahead of b
    "correlation": ("a", "metric", "with"),  # over the runs of a: rank correlation of `with` after epoch 1 and the end
}
BOUNDS = ("greater", "less", "equal", "far_greater", "far_less")
EXPECTATIONS: dict[str, tuple[str, ...]] = dict.fromkeys(KINDS, BOUNDS) | {
    "critical_depth": ("reached",),
    "critical_depth_fall": ("falls",),
    "overtakes": ("inside",),
}
# keys that mean something to these kinds only
OF_KINDS = {
    **{key: tuple(kind for kind, needed in KINDS.items() if key in needed) for key in ("b", "from", "to", "with")},
    "than": tuple(kind for kind, expectations in EXPECTATIONS.items() if expectations == BOUNDS),
    "at": ("difference", "level", "drop", "drop_difference", "critical_depth", "critical_depth_fall"),
    "steps": ("difference", "level", "drop", "drop_difference"),
}
PART_KEYS = {
    "id", "statement", "kind", "expect", "a", "b", "where", "metric", "with", "at", "steps", "than", "from", "to",
    "figure", "smallest_effect", "margin", "train",
}  # fmt: skip
CLAIM_KEYS = {
    "id", "source", "statement", "figures", "note", "study", "train", "seeds", "budget", "settings", "arms",
    "smallest_effect", "margin", "parts",
}  # fmt: skip
REQUIRED = ("id", "source", "statement", "study", "arms", "smallest_effect", "parts")


@dataclass(frozen=True)
class Part:
    """One effect and what the statement says of it; its filters have settings, arm and `where` merged."""

    id: str
    statement: str
    kind: str
    expect: str
    metric: str
    smallest_effect: float
    margin: float
    train: str  # overrides of the command that trains what it needs; empty where another part's does
    a: dict[str, Any]
    b: dict[str, Any]
    start: dict[str, Any]  # `from`
    end: dict[str, Any]  # `to`
    epoch: int | None  # None: the last
    steps: tuple[int, int] | None  # mean over these training steps instead of an epoch
    than: float
    figure: str
    predictor: str = ""  # `with`
    a_name: str = "a"
    b_name: str = "b"

    def needs(self) -> list[dict[str, Any]]:
        """One filter per group of runs that this part reads, lists spelled out."""
        arms = [arm for arm in (self.a, self.b) if arm]
        ends = [end for end in (self.start, self.end) if end] or [{}]
        return [cell for arm, end in product(arms, ends) for cell in spell_out(arm | end)]


@dataclass(frozen=True)
class Claim:
    """A published statement and the parts that decide it."""

    id: str
    source: str
    statement: str
    study: str
    seeds: int
    parts: list[Part]
    figures: str = ""
    note: str = ""
    budget: str = ""


@dataclass(frozen=True)
class PartResult:
    """A part's verdict and what it rests on."""

    part: Part
    verdict: str
    effect: Interval  # of all seeds, 95 %
    judged: Interval = NO_RUNS  # of the seeds of the last look, at its level
    notes: tuple[str, ...] = ()


def region(part: Part) -> tuple[float, float]:
    """The effects that the statement allows, as an interval."""
    centre = part.than
    return {
        "greater": (centre, math.inf),
        "less": (-math.inf, centre),
        "equal": (centre - part.smallest_effect, centre + part.smallest_effect),
        "far_greater": (centre + part.margin, math.inf),
        "far_less": (-math.inf, centre - part.margin),
    }[part.expect]


def judge(interval: Interval, allowed: tuple[float, float]) -> str:
    """Where the interval lies beside the allowed region."""
    if interval.low is None or interval.high is None:
        return INCONCLUSIVE
    if allowed[0] < interval.low and interval.high < allowed[1]:
        return SUPPORTED
    if interval.high <= allowed[0] or interval.low >= allowed[1]:
        return REFUTED
    return INCONCLUSIVE


def spell_out(wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """A filter with lists as the filters without."""
    choices = [value if isinstance(value, list) else [value] for value in wanted.values()]
    return [dict(zip(wanted, values, strict=True)) for values in product(*choices)]


def load_claims(ids: Iterable[str] = ()) -> list[Claim]:
    """The claims, or those of these ids, in this order; those in ./claims replace the project's of the same name."""
    files = {path.stem: path for folder in (CLAIMS, Path("claims")) for path in sorted(folder.glob("*.yaml"))}
    ids = list(ids)
    if ids == ["all"]:
        ids = []
    for name in ids:
        if name not in files:
            raise InputError(f"no claim {name!r}; there are {', '.join(files)}")
    return [load_claim(files[name]) for name in ids or files]


def load_claim(path: Path) -> Claim:
    """One claim file, every key and value checked."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: a claim is a mapping with the keys {', '.join(sorted(CLAIM_KEYS))}")
    _known(raw, CLAIM_KEYS, str(path))
    for key in REQUIRED:
        if raw.get(key) in (None, "", [], {}):
            raise InputError(f"{path}: no {key!r}; a claim needs {', '.join(REQUIRED)}")
    for key in ("id", "source", "statement", "study"):
        if not isinstance(raw[key], str):
            raise InputError(f"{path}: {key} {raw[key]!r} is not a text; put it in quotes")
    if raw["id"] != path.stem:
        raise InputError(f"{path}: id {raw['id']!r} must be the file's name, {path.stem!r}")
    for key in ("arms", "settings"):
        _mapping(raw, key, str(path))
    for name, arm in raw["arms"].items():
        if not arm:
            raise InputError(f"{path}: arms {name} says nothing; give it keys and values")
        _mapping(raw["arms"], name, f"{path}: arms")
    if not isinstance(raw["parts"], list):
        raise InputError(f"{path}: parts {raw['parts']!r} is not a list")
    texts = {key: " ".join(str(raw.get(key) or "").split()) for key in ("figures", "note", "budget")}
    parts = [_part(part, raw, f"{path}, part {number}") for number, part in enumerate(raw["parts"], start=1)]
    return Claim(
        id=raw["id"],
        source=raw["source"],
        statement=" ".join(raw["statement"].split()),
        study=raw["study"],
        seeds=_number(raw.get("seeds", 3), int, f"{path}: seeds", least=1),
        parts=parts,
        **texts,
    )


def _part(raw: Any, claim: dict[str, Any], where: str) -> Part:
    if isinstance(raw, dict):
        raw = {key: value for key, value in raw.items() if value is not None}
    _check_part(raw, claim, where)
    kind, metric, at = raw["kind"], raw.get("metric", ""), raw.get("at", "last")
    base = (claim.get("settings") or {}) | (raw.get("where") or {})
    effect = raw.get("smallest_effect", claim["smallest_effect"])
    margin = raw.get("margin", claim.get("margin", 0))
    return Part(
        id=str(raw["id"]),
        statement=" ".join(str(raw.get("statement", raw["id"])).split()),
        kind=kind,
        expect=raw["expect"],
        metric=metric,
        smallest_effect=_number(effect, float, f"{where}: smallest_effect", least=0),
        margin=_number(margin, float, f"{where}: margin", least=0),
        train=str(raw.get("train", claim.get("train")) or ""),
        a=claim["arms"][raw["a"]] | base,
        b=claim["arms"][raw["b"]] | base if "b" in raw else {},
        start=raw.get("from") or {},
        end=raw.get("to") or {},
        epoch=None if at == "last" else _number(at, int, f"{where}: at (last or an epoch)", least=1),
        steps=tuple(raw["steps"]) if "steps" in raw else None,
        than=_number(raw.get("than", 0), float, f"{where}: than"),
        figure=str(raw.get("figure", "")),
        predictor=raw.get("with", ""),
        a_name=NAMES.get(raw["a"], raw["a"]),
        b_name=NAMES.get(raw.get("b", ""), raw.get("b", "")),
    )


def _check_part(raw: Any, claim: dict[str, Any], where: str) -> None:
    """Everything that is there is known, and everything that the kind needs is there."""
    if not isinstance(raw, dict):
        raise InputError(f"{where}: {raw!r} is not a mapping")
    _known(raw, PART_KEYS, where)
    kind = _choice(raw, "kind", KINDS, where)
    for key in ("id", *KINDS[kind]):
        if raw.get(key) is None:
            raise InputError(f"{where}: no {key!r}; kind {kind} needs id, expect, {', '.join(KINDS[kind])}")
    expect = _choice(raw, "expect", EXPECTATIONS[kind], where)
    for key in {"a", "b"} & raw.keys():
        _choice(raw, key, claim["arms"], where)
    for key in {"where", "from", "to"} & raw.keys():
        _mapping(raw, key, where)
    for key, kinds in OF_KINDS.items():
        if key in raw and kind not in kinds:
            raise InputError(f"{where}: {key}={raw[key]} means nothing to kind {kind}; it does to {', '.join(kinds)}")
    if not isinstance(raw.get("at", "last"), (str, int)):
        raise InputError(f"{where}: at {raw['at']!r} is neither last nor an epoch")
    if "metric" in raw:
        known = {"last": (*METRICS, *MEASURED), 1: (*EPOCH_METRICS, *MEASURED)}
        moment = "every epoch" if kind == "overtakes" else raw.get("at", "last")
        _choice(raw, "metric", known.get(moment, EPOCH_METRICS), where)
    if "with" in raw:
        _choice(raw, "with", MEASURED, where)
    steps = raw.get("steps", [1, 1])
    if not (isinstance(steps, list) and len(steps) == 2) or ("steps" in raw and raw.get("metric") != "train/loss"):
        raise InputError(f"{where}: steps {steps!r} of {raw.get('metric')}; steps is [first, last], of train/loss")
    if not all(type(step) is int for step in steps) or not 1 <= steps[0] <= steps[1]:
        raise InputError(f"{where}: steps {steps!r}; steps is [first, last], whole numbers from 1 on")
    if expect.startswith("far") and raw.get("margin", claim.get("margin")) is None:
        raise InputError(f"{where}: expect {expect} needs a margin, here or for the whole claim")
    ends = ("from", "to") if "from" in KINDS[kind] else ("where",)
    if kind.startswith("critical_depth") and not all(_are_depths(raw[end].get("depth")) for end in ends):
        raise InputError(f"{where}: kind {kind} needs a list of depths in {' and '.join(ends)}")
    if raw.get("b") == raw["a"]:
        raise InputError(f"{where}: a and b are the same arm, {raw['a']}")
    for name in {raw["a"], raw.get("b", raw["a"])}:
        _require_agreement(claim, raw, name, where)


def _are_depths(value: Any) -> bool:
    return isinstance(value, list) and all(type(depth) is int for depth in value)


def _require_agreement(claim: dict[str, Any], raw: dict[str, Any], name: str, where: str) -> None:
    """InputError where an arm's own value would be replaced: two arms could become one."""
    arm = claim["arms"][name]
    filters = {"settings": claim.get("settings"), **{key: raw.get(key) for key in ("where", "from", "to")}}
    for source, values in filters.items():
        for key, value in (values or {}).items():
            if key in arm and (own := arm[key]) != value:
                raise InputError(f"{where}: {source} says {key}={value} where arm {name} says {own}; keep one of them")


def _mapping(raw: dict[str, Any], key: str, where: str) -> None:
    wanted = raw.get(key) or {}
    if not isinstance(wanted, dict):
        raise InputError(f"{where}: {key} {raw[key]!r} is not a mapping of keys to values")
    if empty := [name for name, value in wanted.items() if value in ([], {})]:
        raise InputError(f"{where}: {key} {empty[0]} is empty; list at least one value")


def _choice(raw: dict[str, Any], key: str, choices: Iterable[str], where: str) -> str:
    if raw.get(key) not in list(choices):
        raise InputError(f"{where}: {key} {raw.get(key)!r} is none of {', '.join(choices)}")
    return raw[key]


def _known(raw: dict[str, Any], keys: set[str], where: str) -> None:
    unknown = sorted(str(key) for key in set(raw) - keys)
    if unknown:
        raise InputError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(keys))}")


def _number(value: Any, kind: type[int] | type[float], where: str, least: float = -math.inf) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not math.isfinite(value):
        raise InputError(f"{where}: {value!r} is not a number")
    if value < least:
        raise InputError(f"{where}: {value!r} must be at least {least}")
    return kind(value)
