"""The report's section "Why": what instruments have measured over depth and time, and what went with a bad end."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitbn.analysis.arms import Arm, cells
from vitbn.analysis.comparisons import final_accuracies, metric_value
from vitbn.analysis.formatting import cell_text, interval_text, signed
from vitbn.analysis.instruments import OVER_TIME, Key, Measured, over_layers, summarized
from vitbn.analysis.records import RunRecord
from vitbn.analysis.sections import Section, Table
from vitbn.analysis.stats import rank_correlation
from vitbn.models.placements import Slot
from vitbn.plotting import Picture, grid, legend_above, look, plain_numbers, set_title

LEAST = 5  # runs; a rank correlation of fewer says nothing
MOST_ARMS = 7  # lines of a panel that can be told apart
IN_BLOCKS = [slot for slot in Slot if slot not in (Slot.embed_in, Slot.embed_out, Slot.qk, Slot.final)]
LOGARITHMIC = ("sharpness", "gradient norm", "update ratio", "variance")
UNITS = {
    "gradient norm": "gradient norm", "update ratio": "update / weight", "attention entropy": "entropy / ln T",
    "mean gap": "gap of the mean", "sharpness": "sharpness",
}  # fmt: skip
_LINES = "Solid: measured last; dashed: at the end of epoch 1; median over the runs."
Cell = tuple[Any, Any]
Panels = Sequence[tuple[str, str | None]]  # measurement, and slot or group; None: their mean


def why_pictures(arms: list[Arm]) -> list[Picture]:
    """Over depth activations and what else a layer has, over steps what describes the whole network."""
    cell, shown, where = _shown(arms)
    if not shown:
        return []
    style = {arm.name: look(index) for index, arm in enumerate(shown)}
    firsts, lasts = ({arm.name: _medians(arm.at(*cell), which) for arm in shown} for which in ("first", "last"))
    slots = [slot for slot in IN_BLOCKS if any(len(over_layers(of, "variance", slot)) > 1 for of in lasts.values())]
    names = [name for name in ("gradient norm", "update ratio", "attention entropy", "mean gap")
             if any(over_layers(of, name) for of in lasts.values())]  # fmt: skip
    pictures = []
    panels: Panels
    for title, file, panels in (
        ("Variance of the activations that arrive at each slot", "activations", [("variance", slot) for slot in slots]),
        ("Gradients, updates, attention and statistics of each layer", "layers",
         [(name, "" if name in ("gradient norm", "update ratio") else None) for name in names]),
    ):  # fmt: skip
        if panels:
            figure = _over_depth(panels, firsts, lasts, style)
            pictures.append(Picture(f"why-{file}", f"{title} {where}".strip(), _LINES, _alt(panels, lasts), figure))
    return pictures + _over_time(shown, cell, style, where)


def _shown(arms: list[Arm]) -> tuple[Cell, list[Arm], str]:
    """The depth and rate that most arms were measured at, the deepest of these, and the arms that are drawn."""
    at = {cell: [arm for arm in arms if _measured(arm.at(*cell))] for cell in cells(arms)}
    at = {cell: members for cell, members in at.items() if members}
    if not at:
        return (None, None), [], ""
    cell = max(at, key=lambda cell: (len(at[cell]), cell[0] or 0, cell[1] or 0))
    members = at[cell]
    where = f"at {text}" if len(cells(arms)) > 1 and (text := cell_text(*cell)) else ""
    if len(members) > MOST_ARMS:
        ranked = sorted(members, key=lambda arm: -np.mean(final_accuracies(arm.at(*cell)) or [0]))
        chosen = [*ranked[: MOST_ARMS - MOST_ARMS // 2], *ranked[-(MOST_ARMS // 2) :]]
        members = [arm for arm in members if arm in chosen]
        where = f"{where}, the best and the worst arms".removeprefix(", ")
    return cell, members, where


def _measured(runs: list[RunRecord]) -> list[Measured]:
    return [run.instruments for run in runs if run.instruments is not None and run.instruments.last]


def _medians(runs: list[RunRecord], which: str) -> dict[Key, float]:
    found: dict[Key, list[float]] = {}
    for measured in _measured(runs):
        for key, value in getattr(measured, which).items():
            found.setdefault(key, []).append(value)
    return {key: float(np.median(values)) for key, values in found.items()}


def _over_depth(panels: Panels, firsts: dict[str, dict], lasts: dict[str, dict], style: dict[str, Any]) -> Any:
    figure, axes = grid(len(panels), 3 if len(panels) > 4 else 2, height=2.5)
    for ax, (name, slot) in zip(axes, panels, strict=True):
        lines = [
            (over_layers(values, name, slot), line | {"linestyle": dash, "linewidth": width, "label": label})
            for arm, line in style.items()
            for values, dash, width, label in ((firsts[arm], "--", 1.0, None), (lasts[arm], "-", 1.8, arm))
        ]
        layers = list(dict.fromkeys(layer for of, _ in lines for layer in of))
        blocks = sorted((layer for layer in layers if layer.isdigit()), key=int)
        layers = blocks if len(blocks) > 1 else layers  # what stands before and behind them has another size
        for of, line in lines:
            known = [index for index, layer in enumerate(layers) if layer in of]
            ax.plot(known, [of[layers[index]] for index in known], **line, markersize=4)
        few = range(0, len(layers), -(-len(layers) // 12))
        ax.set_xticks(list(few), [layers[index] for index in few], rotation=0 if blocks else 30)
        _finish(ax, slot or UNITS[name], name, "block" if blocks else "layer")
    legend_above(figure, axes)
    return figure


def _over_time(arms: list[Arm], cell: Cell, style: dict[str, Any], where: str) -> list[Picture]:
    from matplotlib.ticker import MaxNLocator

    courses = {
        (name, arm.name): [of for measured in _measured(arm.at(*cell)) if (of := measured.courses.get(name))]
        for name in OVER_TIME
        for arm in arms
    }
    names = [name for name in OVER_TIME if any(courses[name, arm.name] for arm in arms)]
    longest = max(step for of in courses.values() for course in of for step in course)
    figure, axes = grid(len(names), 2, height=2.5)
    for ax, name in zip(axes, names, strict=True):
        for arm in arms:
            runs = courses[name, arm.name]
            steps = sorted({step for course in runs for step in course})
            values = [np.median([course[step] for course in runs if step in course]) for step in steps]
            ax.plot(steps, values, **style[arm.name], linewidth=1.6, markersize=4, label=arm.name,
                    markevery=max(1, len(steps) // 6))  # fmt: skip
        _finish(ax, UNITS[name], name, "step")
        ax.set_xlim(0, 1.03 * longest)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    legend_above(figure, axes)
    titles = ", ".join(name.replace("mean gap", "statistics gap") for name in names)
    caption = "Median over the runs; gradient norm of the whole network, gap and entropy as means over its layers."
    alt = f"Curves over training steps of {', '.join(UNITS[name] for name in names)}."
    return [Picture("why-time", f"{titles[0].upper()}{titles[1:]} over training {where}".strip(), caption, alt, figure)]


def _finish(ax: Any, title: str, name: str, xlabel: str) -> None:
    set_title(ax, title)
    ax.set_xlabel(xlabel)
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ax.lines] or [np.empty(0)])
    if name in LOGARITHMIC and len(drawn) and drawn.max() > 10 * drawn.min() > 0:
        ax.set_yscale("log")
        plain_numbers(ax.yaxis)


def _alt(panels: Panels, lasts: dict[str, dict]) -> str:
    """Of every panel and arm the values of the first and the last layer, in words."""
    texts = []
    for name, slot in panels:
        for arm, values in lasts.items():
            if of := list(over_layers(values, name, slot).values()):
                texts.append(f"{slot or name}, {arm}: {of[0]:.3g} to {of[-1]:.3g}")
    return f"From the first to the last layer, measured last: {'; '.join(texts)}."


def bad_ends(runs: list[RunRecord]) -> list[list[str]]:
    """Per measurement at the end of epoch 1: n, rank correlation with the final val/acc, its interval."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        score = metric_value(run, "val/acc") if run.status in ("done", "diverged") else None
        if score is not None and run.instruments is not None:
            for name, value in summarized(run.instruments.first).items():
                pairs.setdefault(name, []).append((value, score))
    found = {name: rank_correlation(*zip(*of, strict=True)) for name, of in pairs.items() if len(of) >= LEAST}
    known = [(name, correlation) for name, correlation in found.items() if correlation is not None]

    def show(value: float) -> str:
        return signed(value, 2)

    return [
        [name, str(correlation.n), show(correlation.estimate), interval_text(correlation, show)]
        for name, correlation in sorted(known, key=lambda row: row[1].estimate)
    ]


def why_section(runs: list[RunRecord], pictures: list[Picture]) -> Section:
    """Pictures and, from five runs on, the table of what went with a bad end."""
    if not pictures:
        return Section("Why")
    text = (
        "What callbacks=instruments measured inside of the networks; docs/instruments.md has the formulas. Arms that "
        "differ here differ in how they train, not yet in why they end as they do."
    )
    rows = bad_ends(runs)
    if not rows:
        return Section("Why", [text], pictures=pictures)
    exploratory = (
        f"Exploratory: {len(rows)} measurements were compared with the end of the runs, so that about "
        f"{len(rows) * 0.05:.0f} of these intervals exclude 0 by chance alone; runs of all arms, depths and learning "
        "rates are ranked together, so that a measurement may merely tell which arm or depth a run has. Below 0: "
        "the larger the measurement at the end of epoch 1, the lower the final val/acc (a diverged run counts as "
        "a guess). Spearman's rank correlation, interval by Fisher's z with the variance of Bonett and Wright, 2000."
    )
    head = ["at the end of epoch 1", "n", "correlation with final val/acc", "95 % interval"]
    return Section("Why", [text, exploratory], [Table("What went with a bad end", head, rows)], pictures)
