"""Accuracy and loss over epochs in the article's layouts: a panel per depth, or a line per learning rate."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from vitbn.analysis.arms import Arm, cells, looks
from vitbn.analysis.comparisons import final_accuracies
from vitbn.analysis.formatting import percent, plain
from vitbn.analysis.records import EPOCH_METRICS, RunRecord
from vitbn.analysis.stats import mean_interval
from vitbn.plotting import (
    COLOURS,
    DASHES,
    MOST_SINGLE,
    Picture,
    fit_to_lines,
    grid,
    legend_above,
    set_title,
    slug,
)

RATE_COLOURS = (COLOURS[6], COLOURS[4], COLOURS[5], COLOURS[3])  # not those of the placements
MOST_FURTHER = 8  # further metrics that are drawn
MOST = 12  # figures, and twice as many panels in one; a random search would give one per trial
Cell = tuple[Any, Any]  # depth, learning rate
_BAND = (
    "Bold: mean over the runs that are done; band: 95 % interval over seeds (t); thin: single runs (at most 30); "
    "a cross ends a diverged run."
)


@dataclass(frozen=True)
class CurvePanel:
    """One pair of axes: arms that differ in placement only, at one depth and learning rate."""

    title: str
    arms: list[Arm]
    cell: Cell


@dataclass(frozen=True)
class FigureLayout:
    """One figure: its panels and what they have in common."""

    name: str
    where: str
    panels: list[CurvePanel]


def over_epochs(arms: list[Arm]) -> list[Picture]:
    """Per learning rate (and further setting) a figure of accuracies, one of losses, one per further metric.

    A figure has a panel per depth.
    """
    pictures, style = [], looks(arms)
    further: list[tuple[str, Any, str]] = [
        (f"metric {name}", partial(_curve_of, name), name) for name in _further_metrics(arms)
    ]
    for layout in _layouts(arms)[:MOST]:
        panels = layout.panels[: 2 * MOST]
        for what, draw, label in (*_KINDS, *further):
            figure, axes = grid(len(panels), 3 if len(panels) > 4 else 2, sharey=True)
            for ax, panel in zip(axes, panels, strict=True):
                for arm in panel.arms:
                    draw(ax, arm.at(*panel.cell), arm.placement, style[arm.placement])
                _label(ax, panel.title, label)
            fit_to_lines(axes)
            legend_above(figure, axes, *(_line_styles() if what == "loss" else ()))
            subject = what.capitalize() if (what, draw, label) in _KINDS else label
            title = f"{subject} over epochs {layout.where}".strip()
            caption = (
                "Solid: training loss; dashed: validation loss; markers: the arms. " if what == "loss" else ""
            ) + _BAND
            alt = f"{subject} curves. {_ends(panels)}"
            pictures.append(Picture(slug(what, layout.name), title, caption, alt, figure))
    return pictures


def learning_rates(arms: list[Arm]) -> list[Picture]:
    """Accuracy of each placement at each depth, a line per learning rate; where two rates share a depth."""
    pictures = []
    for setting in dict.fromkeys(arm.setting for arm in arms):
        members = [arm for arm in arms if arm.setting == setting]
        rates: dict[Any, list[float]] = {}
        for depth, lr in cells(members):
            rates.setdefault(depth, []).append(lr)
        depths = sorted((depth for depth in rates if len(rates[depth]) > 1), key=lambda depth: depth or 0)
        order = sorted({lr for depth in depths for lr in rates[depth]})
        if not depths or len(order) > len(RATE_COLOURS):
            continue
        panels = [(depth, arm) for depth in depths for arm in members]
        figure, axes = grid(len(panels), min(len(members), 4), height=2.5, sharey=True)
        for ax, (depth, arm) in zip(axes, panels, strict=True):
            for index, lr in enumerate(order):
                look = {"color": RATE_COLOURS[index], "linestyle": DASHES[index]}
                _accuracy(ax, arm.at(depth, lr), f"learning rate {lr:g}", look)
            _label(ax, f"{arm.placement}" + (f", depth {depth}" if depth else ""), "validation acc. (%)")
        fit_to_lines(axes)
        legend_above(figure, axes)
        title = f"Each placement under each learning rate {setting}".strip()
        all_panels = [
            CurvePanel(f"depth {plain(d)}, rate {plain(lr)}", members, (d, lr)) for d in depths for lr in rates[d]
        ]
        alt = f"Accuracy curves, a line per learning rate. {_ends(all_panels)}"
        pictures.append(Picture(slug("learning-rates", setting), title, _BAND, alt, figure))
    return pictures


def _layouts(arms: list[Arm]) -> list[FigureLayout]:
    """A figure per setting and learning rate with a panel per depth; with one depth, a panel per rate.

    Settings that have a single panel each share one figure.
    """
    settings = dict.fromkeys(arm.setting for arm in arms)
    layouts = [layout for setting in settings for layout in _layouts_of_setting(arms, setting)]
    if len(layouts) > 1 and all(len(layout.panels) == 1 for layout in layouts):
        return [FigureLayout("", "", [replace(layout.panels[0], title=layout.where) for layout in layouts])]
    return layouts


def _layouts_of_setting(arms: list[Arm], setting: str) -> list[FigureLayout]:
    members = [arm for arm in arms if arm.setting == setting]
    begun = [cell for cell in cells(members) if any(_begun(arm.at(*cell)) for arm in members)]
    if len({depth for depth, _ in begun}) > 1:
        rates = dict.fromkeys(lr for _, lr in begun)
        groups = [
            (f"lr{plain(lr)}", f"at learning rate {plain(lr)}", [cell for cell in begun if cell[1] == lr])
            for lr in rates
        ]
        titles = {cell: f"depth {plain(cell[0])}" for cell in begun}
    else:
        groups = [("", "", begun)] if begun else []
        titles = {cell: f"learning rate {plain(cell[1])}" for cell in begun}
    return [
        FigureLayout(
            slug(name, setting),
            f"{where} {setting}".strip(),
            [CurvePanel(titles[cell], members, cell) for cell in chosen],
        )
        for name, where, chosen in groups
    ]


def _begun(runs: list[RunRecord]) -> bool:
    return any(len(run.rows.get("epoch", ())) for run in runs)


def _accuracy(ax: Any, runs: list[RunRecord], label: str, look: dict[str, Any]) -> None:
    line = {key: value for key, value in look.items() if key != "marker"}
    _curve(ax, runs, "val/acc", 100, line, label)


def _loss(ax: Any, runs: list[RunRecord], label: str, look: dict[str, Any]) -> None:
    _curve(ax, runs, "train/loss", 1, look | {"linestyle": "-"}, label)
    _curve(ax, runs, "val/loss", 1, look | {"linestyle": "--"}, None)


def _line_styles() -> list[Any]:
    """What the line styles of a loss mean, for the legend."""
    from matplotlib.lines import Line2D

    training = Line2D([], [], color="#555555", linestyle="-", label="training")
    return [training, Line2D([], [], color="#555555", linestyle="--", label="validation")]


def _curve_of(metric: str, ax: Any, runs: list[RunRecord], label: str, look: dict[str, Any]) -> None:
    _curve(ax, runs, metric, 1, look, label)


def _further_metrics(arms: list[Arm]) -> list[str]:
    """What callbacks and the module have logged besides what every run has."""
    names = {name for arm in arms for cell in cells([arm]) for run in arm.at(*cell) for name in run.rows}
    return sorted(names - {"epoch", *EPOCH_METRICS, "lr", "seconds"})[:MOST_FURTHER]


def _measured(run: RunRecord, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The epochs in which the metric was measured, and its values."""
    if metric not in run.rows:
        return np.empty(0), np.empty(0)
    known = ~np.isnan(run.rows[metric])
    return run.rows["epoch"][known], run.rows[metric][known]


def _curve(ax: Any, runs: list[RunRecord], metric: str, scale: float, line: dict[str, Any], label: str | None) -> None:
    begun = [run for run in runs if len(_measured(run, metric)[0])]
    bare = {key: value for key, value in line.items() if key != "marker"}
    _singles(ax, sorted(begun, key=lambda run: run.status != "diverged")[:MOST_SINGLE], metric, scale, bare)
    done = [run for run in begun if run.status == "done"]
    if not done:
        if label and begun:  # the legend names it though no run is done
            ax.plot([], [], **line, label=label)
        return
    courses = [dict(zip(*_measured(run, metric), strict=True)) for run in done]
    epochs = sorted(set.intersection(*map(set, courses)))
    table = scale * np.array([[course[epoch] for epoch in epochs] for course in courses])
    intervals = [mean_interval(values) for values in table.T]
    means = [interval.estimate for interval in intervals]
    line = {"marker": "o"} | line if len(epochs) == 1 else line  # one epoch is no line
    ax.plot(epochs, means, **line, linewidth=2.0, label=label, markevery=max(1, len(epochs) // 5), markersize=4.5)
    if len(done) > 1:
        low, high = ([getattr(interval, end) for interval in intervals] for end in ("low", "high"))
        ax.fill_between(epochs, low, high, color=line["color"], alpha=0.15, linewidth=0)


def _singles(ax: Any, runs: list[RunRecord], metric: str, scale: float, line: dict[str, Any]) -> None:
    """As one line with gaps: a line each would take matplotlib ten times as long."""
    if not runs:
        return
    xs, ys = (np.concatenate([[*_measured(run, metric)[axis], np.nan] for run in runs]) for axis in (0, 1))
    ax.plot(xs, ys * scale, **line, alpha=0.35, linewidth=0.8)
    for run in runs:
        if run.status == "diverged":
            end = np.flatnonzero(np.isfinite(run.rows[metric]))[-1:]
            ax.plot(run.rows["epoch"][end], run.rows[metric][end] * scale, "X", color=line["color"], markersize=7)


def _label(ax: Any, title: str, ylabel: str) -> None:
    from matplotlib.ticker import MaxNLocator

    set_title(ax, title)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    subplot = ax.get_subplotspec()
    if subplot.is_first_col():
        ax.set_ylabel(ylabel)
    ax.set_xlabel("epoch")


def _ends(panels: list[CurvePanel]) -> str:
    """The last epoch in words."""
    texts = []
    for panel in panels:
        for arm in panel.arms:
            if values := final_accuracies(arm.at(*panel.cell)):
                texts.append(f"{panel.title}, {arm.name}: {percent(float(np.mean(values)))}")
    return f"Mean accuracy after the last epoch: {'; '.join(texts)}." if texts else "No run is done."


_KINDS = (("accuracy", _accuracy, "validation accuracy (%)"), ("loss", _loss, "cross-entropy loss"))
