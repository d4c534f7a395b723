"""What the value of a key may be: whether it fits, and the rule in words."""

import math
from collections.abc import Callable
from typing import Any

Range = tuple[Callable[[Any], bool], str]
positive: Range = (
    lambda v: isinstance(v, int | float) and math.isfinite(v) and v > 0,
    "must be a number above 0",
)
number: Range = (lambda v: isinstance(v, int | float) and math.isfinite(v), "must be a number")
not_negative: Range = (lambda v: number[0](v) and v >= 0, "must be a number, at least 0")
counting: Range = (lambda v: isinstance(v, int) and v >= 1, "must be a whole number, at least 1")
natural: Range = (lambda v: isinstance(v, int) and v >= 0, "must be a whole number, at least 0")
fraction: Range = (lambda v: isinstance(v, int | float) and 0 <= v < 1, "must lie in [0, 1)")
share: Range = (lambda v: isinstance(v, int | float) and 0 <= v <= 1, "must lie in [0, 1]")


def one_of(*choices: Any) -> Range:
    """One of the values; 1 is not true."""
    names = ", ".join(str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in choices)
    return (lambda v: any(v is c or (v == c and type(v) is type(c)) for c in choices), f"choose from {names}")


def per_channel(single: Range) -> Range:
    """One value, or a list of them."""
    is_valid, rule = single
    return (lambda v: all(map(is_valid, v)) if isinstance(v, list) else is_valid(v)), f"{rule}, or one per channel"
