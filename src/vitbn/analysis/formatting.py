"""Numbers as people read them: percent, points, intervals, expectations."""

import math
from collections.abc import Callable
from typing import Any

from vitbn.analysis.claims import Part, PartResult, region
from vitbn.analysis.instruments import MEASURED
from vitbn.analysis.looks import look_level
from vitbn.analysis.stats import Interval, Onset

INF = math.inf
DASH = "–"  # nothing to show
NUMBER_COLUMNS = ("effect", "95 % interval", "n", f"verdict's {100 * look_level():g} % interval")
Show = Callable[[float], str]


def percent(value: float) -> str:
    """A fraction as people read accuracies."""
    return f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of fractions in percentage points."""
    return signed(100 * value, 2)


def plain(value: Any) -> str:
    """A depth or learning rate, or a dash."""
    return DASH if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def cell_text(depth: Any, lr: Any) -> str:
    """`depth 4 lr 0.003`, without what the network does not have."""
    parts = [f"depth {depth}"] if depth is not None else []
    return " ".join(parts + ([f"lr {lr:g}"] if lr is not None else []))


def signed(value: float, digits: int) -> str:
    """With plus or a true minus sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def interval_text(interval: Interval, show: Show) -> str:
    """`[low, high]`, or why there is none."""
    if interval.low is None or interval.high is None:
        return "none: one seed" if interval.n == 1 else DASH
    return f"[{show(interval.low)}, {show(interval.high)}]"


def accuracy_text(interval: Interval) -> str:
    """`91.2 % [90.1, 92.3]`; an interval cannot reach beyond 0 and 100."""
    if not interval.n:
        return DASH
    if interval.low is None or interval.high is None:
        return percent(interval.estimate)
    low, high = 100 * max(interval.low, 0), 100 * min(interval.high, 1)
    return f"{percent(interval.estimate)} [{low:.1f}, {high:.1f}]"


def onset_text(start: Onset) -> str:
    """`5 [4, 6]`; beyond the largest x tried as `>7`."""

    def show(x: float) -> str:
        return f">{start.last:g}" if x == INF else f"{x:g}"

    if start.low is None or start.high is None:
        return f"{show(start.estimate)} (no interval)"
    return f"{show(start.estimate)} [{show(start.low)}, {show(start.high)}]"


def effect_texts(part: Part, effect: Interval) -> tuple[str, str]:
    """Effect and interval of a claim's part; the effect carries the unit."""
    if not effect.n:
        return DASH, DASH
    show, unit = _unit(part)
    return show(effect.estimate) + unit, interval_text(effect, show)


def result_texts(result: PartResult) -> tuple[str, ...]:
    """The cells of NUMBER_COLUMNS; of n also how many the verdict counts, where these are fewer."""
    all_, judged = result.effect, result.judged
    n = str(all_.n or DASH) if all_.n == judged.n else f"{all_.n} ({judged.n} judged)"
    return (*effect_texts(result.part, all_), n, effect_texts(result.part, judged)[1])


def expectation(part: Part) -> str:
    """What the part must show, and whose minus whose: `ViTBNFFN − ViT > +5.00 points`."""
    fixed = {
        "reached": f"{part.a_name} ahead of {part.b_name} from some depth on",
        "falls": f"depth from which {part.a_name} is ahead of {part.b_name}: falls by more than 0",
        "inside": f"{part.a_name} behind {part.b_name} at first, ahead at last",
    }
    if part.expect in fixed:
        return fixed[part.expect]
    of = {
        "difference": f"{part.a_name} − {part.b_name}",
        "drop": f"drop of {part.a_name}",
        "level": f"{part.metric} of {part.a_name}" if part.metric in MEASURED else part.a_name,
        "correlation": f"{part.a_name}: rank correlation of {part.predictor} with {part.metric}",
        "drop_difference": f"drop of {part.a_name} − drop of {part.b_name}",
    }.get(part.kind, part.a_name)
    low, high = region(part)
    show, unit = _unit(part)
    if INF in (-low, high):
        sign, bound = ("<", high) if low == -INF else (">", low)
        return f"{of} {sign} {show(bound) + unit if bound else 0}"
    return f"{of}: {show(low)} to {show(high)}{unit}"


def _unit(part: Part) -> tuple[Show, str]:
    if part.kind in ("critical_depth", "critical_depth_fall"):
        return _count, " layers"
    if part.kind == "overtakes":
        return _count, " epochs"
    if part.kind == "correlation" or part.metric in MEASURED:
        return (lambda x: f"{x:.2f}" if part.kind == "level" else signed(x, 2)), ""
    if part.metric.endswith("loss"):
        return (lambda x: f"{x:.3f}" if part.kind == "level" else signed(x, 3)), ""
    if part.kind in ("level", "diverged_share"):
        return lambda x: f"{100 * x:.1f}", " %"
    return points, " points"


def _count(x: float) -> str:
    return "?" if math.isnan(x) else f"{x:g}".replace("inf", "∞")
