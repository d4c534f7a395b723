"""Scores and the panel of statistics as tables in the terminal and as one picture."""

from typing import Any

from rich.console import Console
from rich.table import Table

from vitbn.inference.bn_report import BATCH, RECALIBRATED, Panel
from vitbn.inference.metrics import Scores
from vitbn.plotting import Picture, grid, legend_above, look, slug

FIGURES = ("accuracy", "loss", "calibration error")


def print_scores(console: Console, title: str, scores: Scores) -> None:
    """The figures, then a row for every class."""
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    table = _table("", "", *FIGURES, "n")
    table.add_row("all", *_figures(scores), str(scores.n))
    console.print(table)
    table = _table("", "class", "images", "recognised", "right when named", "most taken for")
    for each in scores.classes:
        table.add_row(
            each.label, str(each.images), _percent(each.recall), _percent(each.precision), each.confused_with or "–"
        )
    console.print(table)


def print_panel(console: Console, panel: Panel) -> None:
    """Three tables: statistics, batch sizes, layers."""
    table = _table("BatchNorm statistics", "", *FIGURES, "n")
    words = {BATCH: f"batch (of {panel.batch_size})", RECALIBRATED: f"recalibrated ({panel.recalibrated_on:,} images)"}
    for name, scores in panel.compared.items():
        table.add_row(words.get(name, name), *_figures(scores), str(scores.n))
    console.print(table)
    table = _table("Batch statistics by batch size", "images a batch", *FIGURES, "n")
    for name, scores in panel.beside.items():
        table.add_row(f"any, {name} statistics", *_figures(scores), str(scores.n))
    for size, found in panel.by_batch_size.items():
        table.add_row(str(size), *(("–",) * 4 if found is None else (*_figures(found), str(found.n))))
    console.print(table)
    title = f"Distance from the running statistics: of batches of {panel.batch_size}, of all images together"
    table = _table(title, "norm", "mean, batch", "mean, all", "log var, batch", "log var, all")
    for layer in panel.layers:
        values = (layer.batch_mean, layer.pooled_mean, layer.batch_log_var, layer.pooled_log_var)
        table.add_row(layer.name, *(f"{value:.3f}" for value in values))
    console.print(table)


def picture(panel: Panel, model: str, data: str) -> Picture:
    """Accuracy against batch size, and the two distances layer by layer; draw inside `canvas.style()`."""
    figure, (left, middle, right) = grid(3, 3, width=11, height=3.6)
    _sizes(left, panel)
    names = [layer.name.removeprefix("blocks.") for layer in panel.layers]
    for ax, what, title in ((middle, "mean", "Shift of the mean"), (right, "log_var", "Change of the log variance")):
        for index, (kind, words) in enumerate((("batch", f"a batch of {panel.batch_size}"), ("pooled", "all images"))):
            values = [getattr(layer, f"{kind}_{what}") for layer in panel.layers]
            ax.plot(range(len(names)), values, **look(3 + index), markersize=4, label=f"distance, {words}")
        ax.set(title=title, xticks=range(len(names)), ylim=(0, None))
        ax.set_xticklabels(names, rotation=90, fontsize=7)
    middle.set_ylabel("running standard deviations")
    right.set_ylabel("|ln(variance / running)|")
    legend_above(figure, [left, middle])
    compared = "; ".join(f"{name} {_percent(scores.accuracy)}" for name, scores in panel.compared.items())
    caption = (
        f"Left: accuracy by statistics and batch size (n = {next(iter(panel.beside.values())).n}). "
        "Middle, right: how far the statistics of arriving images lie from the running ones, mean over features."
    )
    alt = f"Accuracy by BatchNorm statistics: {compared}."
    return Picture(slug("statistics", data), f"BatchNorm statistics of {model} on {data}", caption, alt, figure)


def _sizes(ax: Any, panel: Panel) -> None:
    for index, (name, scores) in enumerate(panel.beside.items()):
        ax.axhline(100 * scores.accuracy, **{**look(2 * index), "marker": ""}, label=f"accuracy, {name}")
    found = {size: 100 * each.accuracy for size, each in panel.by_batch_size.items() if each is not None}
    ax.plot(list(found), list(found.values()), **look(1), markersize=5, label="accuracy, batch")
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(found), [str(size) for size in found])
    ax.minorticks_off()
    ax.set(title="Accuracy", xlabel="images a batch", ylabel="accuracy (%)")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=not number)
    return table


def _figures(scores: Scores) -> tuple[str, str, str]:
    return _percent(scores.accuracy), f"{scores.loss:.4f}", f"{scores.calibration_error:.4f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"
