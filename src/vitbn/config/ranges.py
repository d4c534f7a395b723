"""What the value of a key may be: whether it fits, and the rule in words."""

from collections.abc import Callable
from typing import Any

from vitbn.errors import InputError
from vitbn.norms.kinds import is_number

Range = tuple[Callable[[Any], bool], str]


def require(key: str, value: Any, allowed: Range) -> None:
    """InputError unless the key's value is allowed, or None."""
    is_valid, rule = allowed
    if value is not None and not is_valid(value):
        raise InputError(f"{key}={value}: {rule}")


def whole(least: int) -> Range:
    """A whole number from `least` on."""
    return (lambda v: type(v) is int and v >= least), f"must be a whole number, at least {least}"


text: Range = (lambda v: isinstance(v, str), "must be text; put a number in quotes")
number: Range = (is_number, "must be a number")
positive: Range = (lambda v: is_number(v) and v > 0, "must be a number above 0")
not_negative: Range = (lambda v: is_number(v) and v >= 0, "must be a number, at least 0")
counting, natural = whole(1), whole(0)
fraction: Range = (lambda v: is_number(v) and 0 <= v < 1, "must lie in [0, 1)")
share: Range = (lambda v: is_number(v) and 0 <= v <= 1, "must lie in [0, 1]")


def one_of(*choices: Any) -> Range:
    """One of the values; 1 is not true."""
    names = ", ".join(str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in choices)
    return (lambda v: any(v is c or (v == c and type(v) is type(c)) for c in choices), f"choose from {names}")


def per_channel(single: Range) -> Range:
    """One value, or a list of them."""
    is_valid, rule = single
    return (lambda v: all(map(is_valid, v)) if isinstance(v, list) else is_valid(v)), f"{rule}, or one per channel"
