"""A search: its trials as a picture, and the best of them as a table."""

from collections.abc import Sequence
from numbers import Real
from typing import Any

from vitbn.analysis.formatting import DASH, plain
from vitbn.analysis.sections import Section, Table, tabled
from vitbn.plotting import COLOURS, Picture, fitted, grid, plain_numbers, set_title

SHOWN = 10  # trials in the table


def _ranked(search: dict[str, Any]) -> list[dict[str, Any]]:
    sign = 1 if search["metric"].endswith("loss") else -1
    return sorted((t for t in search["trials"] if t["value"] is not None), key=lambda trial: sign * trial["value"])


def search_section(search: dict[str, Any], drawn: list[Picture]) -> Section:
    """The best trials, how many failed, and the picture."""
    keys, ranked = search["space"], _ranked(search)
    rows = [[str(trial["number"]), f"{trial['value']:.4f}", *(plain(trial["params"].get(key)) for key in keys),
             trial["run"] or DASH] for trial in ranked[:SHOWN]]  # fmt: skip
    failed = len(search["trials"]) - len(ranked)
    text = (
        f"{len(search['trials'])} trials, {failed} of them diverged or failed. A trial is one run with one seed, so a "
        "small lead of one over another means little: train the best with several seeds before believing it."
    )
    head = ["trial", search["metric"], *keys, "run"]
    return tabled("Search", text, Table(f"The best {len(rows)} trials", head, rows, words=(len(head) - 1,)), drawn)


def search_pictures(search: dict[str, Any]) -> list[Picture]:
    """The metric over the trials and against every parameter; draw inside `style()`."""
    ranked = _ranked(search)
    if not ranked:
        return []
    keys = search["space"]
    figure, axes = grid(1 + len(keys), 3, sharey=True)
    trials = sorted(ranked, key=lambda trial: trial["number"])
    numbers, values = [trial["number"] for trial in trials], [trial["value"] for trial in trials]
    _history(axes[0], search, numbers, values)
    for ax, key in zip(axes[1:], keys, strict=True):
        _against(ax, key, [trial["params"].get(key) for trial in trials], values)
    for ax in axes:
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel(search["metric"])
    alt = f"{search['metric']} of {len(search['trials'])} trials over time and against {', '.join(keys)}."
    caption = "Dots: trials; line: the best so far; crosses: trials that diverged or failed."
    return [Picture("search", "Trials of the search", caption, alt, figure)]


def _history(ax: Any, search: dict[str, Any], numbers: Sequence[int], values: Sequence[float]) -> None:
    better = min if search["metric"].endswith("loss") else max
    best = [better(values[: i + 1]) for i in range(len(values))]
    ax.plot(numbers, values, "o", color=COLOURS[0], alpha=0.6, markersize=4)
    ax.step(numbers, best, where="post", color=COLOURS[1], linewidth=1.6)
    failed = [trial["number"] for trial in search["trials"] if trial["value"] is None]
    worst = (max if better is min else min)(values)
    ax.plot(failed, [worst] * len(failed), "x", color=COLOURS[3], markersize=6)
    ax.set(title="over time", xlabel="trial")


def _against(ax: Any, key: str, tried: Sequence[Any], values: Sequence[float]) -> None:
    if all(isinstance(value, Real) for value in tried):
        xs: list[Any] = list(tried)
        if min(xs) > 0 and max(xs) / min(xs) > 30:
            ax.set_xscale("log")
            plain_numbers(ax.xaxis)
        elif all(isinstance(value, int) for value in tried):
            ax.xaxis.get_major_locator().set_params(integer=True)
    else:
        names = sorted({str(value) for value in tried})
        xs = [names.index(str(value)) for value in tried]
        ax.set_xticks(range(len(names)), [fitted(name, 12) for name in names])
    ax.plot(xs, values, "o", color=COLOURS[0], alpha=0.6, markersize=4)
    set_title(ax, key + (" (logarithmic)" if ax.get_xscale() == "log" else ""))
