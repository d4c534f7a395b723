"""Accuracy and loss over epochs in the article's layouts: a panel per depth, or a line per learning rate."""

from typing import Any

import numpy as np

from vitbn.analysis.arms import Arm, cells
from vitbn.analysis.plots import (
    COLOURS,
    DASHES,
    Picture,
    fit_to_lines,
    grid,
    legend_above,
    looks,
    slug,
)
from vitbn.analysis.results import Run
from vitbn.analysis.stats import mean_interval
from vitbn.analysis.wording import percent

RATE_COLOURS = (COLOURS[6], COLOURS[4], COLOURS[5], COLOURS[3])  # not those of the placements
Cell = tuple[Any, Any]  # depth, learning rate
_BAND = (
    "Bold: mean over the finished runs; band: 95 % interval over seeds (t); thin: single runs; "
    "a cross ends a diverged run."
)


def over_epochs(arms: list[Arm]) -> list[Picture]:
    """Per learning rate (and further setting) a figure of accuracies and one of losses, a panel per depth."""
    found = []
    for setting, rate, panels in _pages(arms):
        members = [arm for arm in arms if arm.setting == setting]
        where = " ".join(part for part in (f"at learning rate {rate:g}" if rate else "", setting) if part)
        for what, draw, label in _KINDS:
            figure, axes = grid(len(panels), 3 if len(panels) > 4 else 2, sharey=True)
            for ax, cell in zip(axes, panels, strict=True):
                for arm in members:
                    draw(ax, arm.at(*cell), arm.placement, looks(arms)[arm.placement])
                _label(ax, _cell_title(cell, panels), label)
            fit_to_lines(axes)
            legend_above(figure, axes)
            name = slug(what, f"lr{rate:g}" if rate else "", setting)
            caption = ("Solid: training loss; dashed: validation loss. " if what == "loss" else "") + _BAND
            alt = f"{what.capitalize()} curves. {_ends(members, panels)}"
            found.append(
                Picture(name, f"{what.capitalize()} over epochs {where}".strip(), caption, alt, figure)
            )
    return found


def learning_rates(arms: list[Arm]) -> list[Picture]:
    """Accuracy of each placement at each depth, a line per learning rate; where two rates share a depth."""
    found = []
    for setting in dict.fromkeys(arm.setting for arm in arms):
        members = [arm for arm in arms if arm.setting == setting]
        rates: dict[Any, list[float]] = {}
        for depth, lr in cells(members):
            rates.setdefault(depth, []).append(lr)
        depths = sorted((depth for depth in rates if len(rates[depth]) > 1), key=lambda depth: depth or 0)
        if not depths:
            continue
        order = sorted({lr for depth in depths for lr in rates[depth]})
        panels = [(depth, arm) for depth in depths for arm in members]
        figure, axes = grid(len(panels), len(members), height=2.5, sharey=True)
        for ax, (depth, arm) in zip(axes, panels, strict=True):
            for index, lr in enumerate(order):
                look = {"color": RATE_COLOURS[index % 4], "linestyle": DASHES[index % 4]}
                _accuracy(ax, arm.at(depth, lr), f"learning rate {lr:g}", look)
            _label(ax, f"{arm.placement}" + (f", depth {depth}" if depth else ""), "validation acc. (%)")
        fit_to_lines(axes)
        legend_above(figure, axes)
        title = f"Each placement under each learning rate {setting}".strip()
        alt = f"Accuracy curves, a line per learning rate. {_ends(members, cells(members))}"
        found.append(Picture(slug("learning-rates", setting), title, _BAND, alt, figure))
    return found


def _pages(arms: list[Arm]) -> list[tuple[str, Any, list[Cell]]]:
    """(setting, learning rate, panels) per figure: a panel per depth, or per rate at one depth."""
    pages: list[tuple[str, Any, list[Cell]]] = []
    for setting in dict.fromkeys(arm.setting for arm in arms):
        members = [arm for arm in arms if arm.setting == setting]
        found = [cell for cell in cells(members) if any(_begun(arm.at(*cell)) for arm in members)]
        if len({depth for depth, _ in found}) <= 1:
            pages += [(setting, None, found)] if found else []
        else:
            rates = sorted({lr for _, lr in found})
            pages += [(setting, rate, [cell for cell in found if cell[1] == rate]) for rate in rates]
    return pages


def _begun(runs: list[Run]) -> bool:
    return any(len(run.rows.get("epoch", ())) for run in runs)


def _accuracy(ax: Any, runs: list[Run], label: str, look: dict[str, Any]) -> None:
    line = {key: value for key, value in look.items() if key != "marker"}
    _curve(ax, runs, "val/acc", 100, line, label)


def _loss(ax: Any, runs: list[Run], label: str, look: dict[str, Any]) -> None:
    _curve(ax, runs, "train/loss", 1, {"color": look["color"], "linestyle": "-"}, label)
    _curve(ax, runs, "val/loss", 1, {"color": look["color"], "linestyle": "--"}, None)


def _curve(
    ax: Any, runs: list[Run], metric: str, scale: float, line: dict[str, Any], label: str | None
) -> None:
    shown = [run for run in runs if len(run.rows.get(metric, ()))]
    for run in shown:
        _single(ax, run, run.rows[metric] * scale, line)
    done = [run for run in shown if run.status == "done"]
    if not done:
        if label and shown:  # the legend names it though no run is finished
            ax.plot([], [], **line, label=label)
        return
    last = min(len(run.rows[metric]) for run in done)
    epochs = done[0].rows["epoch"][:last]
    table = scale * np.array([run.rows[metric][:last] for run in done])
    intervals = [mean_interval(values) for values in table.T]
    ax.plot(epochs, [each.estimate for each in intervals], **line, linewidth=2.0, label=label)
    if len(done) > 1:
        low, high = ([getattr(each, end) for each in intervals] for end in ("low", "high"))
        ax.fill_between(epochs, low, high, color=line["color"], alpha=0.15, linewidth=0)


def _single(ax: Any, run: Run, values: np.ndarray, line: dict[str, Any]) -> None:
    ax.plot(run.rows["epoch"], values, **line, alpha=0.35, linewidth=0.8)
    if run.status == "diverged":
        end = np.flatnonzero(np.isfinite(values))[-1:]
        ax.plot(run.rows["epoch"][end], values[end], "X", color=line["color"], markersize=7)


def _label(ax: Any, title: str, ylabel: str) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_title(title)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    subplot = ax.get_subplotspec()
    if subplot.is_first_col():
        ax.set_ylabel(ylabel)
    ax.set_xlabel("epoch")


def _cell_title(cell: Cell, panels: list[Cell]) -> str:
    depth, lr = cell
    parts = (
        [f"depth {depth}"]
        if depth is not None and (len({d for d, _ in panels}) > 1 or len(panels) == 1)
        else []
    )
    return ", ".join(parts + ([f"learning rate {lr:g}"] if lr and not parts else []))


def _ends(arms: list[Arm], panels: list[Cell]) -> str:
    """The last epoch in words."""
    texts = []
    for depth, lr in panels:
        for arm in arms:
            values = [run.last("val/acc") for run in arm.at(depth, lr) if run.status == "done"]
            values = [value for value in values if value is not None]
            if values:
                where = f" depth {depth}" if depth is not None else ""
                texts.append(f"{arm.placement}{where} lr {lr:g}: {percent(float(np.mean(values)))}")
    return (
        "Mean validation accuracy after the last epoch: " + "; ".join(texts) + "."
        if texts
        else "No run is finished."
    )


_KINDS = (("accuracy", _accuracy, "validation accuracy (%)"), ("loss", _loss, "cross-entropy loss"))
