"""`vitbn evaluate`: scores and, for a network with BatchNorm, the report on its statistics, as tables and a picture."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vitbn.errors import InputError
from vitbn.inference.bn_report import BATCH, RECALIBRATED, RUNNING, BatchNormReport, batchnorm_report
from vitbn.inference.eval_data import Data, load_eval_data
from vitbn.inference.metrics import Scores, score
from vitbn.models.bn_statistics import batch_norms
from vitbn.plotting import Picture, grid, legend_above, look, slug, style
from vitbn.terminal import terminal_table
from vitbn.weights.network import load_network
from vitbn.weights.runs import run_folder

BATCH_SIZES = (1, 8, 64, 512)  # of which as many are tried as there are images for
FIGURES = ("accuracy", "loss", "calibration error")


def evaluate(
    ckpt: str,
    *,
    data: Data = None,
    root: Path | None = None,
    statistics: str = RUNNING,
    batch_sizes: list[int] | None = None,
    out: Path | None = None,
    as_json: bool = False,
) -> None:
    """Print scores and, for a network with BatchNorm, the report on its statistics, whose picture goes into `out`."""
    network = load_network(ckpt)
    has_norms = bool(batch_norms(network.net))
    if statistics != RUNNING and not has_norms:
        raise InputError(f"--statistics {statistics}: {network.source} has no BatchNorm; leave it out")
    need_train = statistics == RECALIBRATED  # else the report does without where there are none
    images = load_eval_data(network, data, root, need_train=need_train).labelled_for(network)
    batch_sizes = batch_sizes or [size for size in BATCH_SIZES if size <= len(images.test)]
    report = batchnorm_report(network, images.train, images.test, batch_sizes) if has_norms else None
    scores = report.compared[statistics] if report else score(network, images.test)
    if as_json:
        content = {"checkpoint": str(network.source), "data": images.name, "statistics": statistics, **asdict(scores)}
        print(json.dumps(content | ({"batchnorm": report.to_dict()} if report else {}), indent=2))
        return
    console = Console()
    with_norms = f", {statistics} statistics" if has_norms else ""
    print_scores(console, f"{network.source} on {images.name}{with_norms}", scores)
    if report:
        print_report(console, report)
        folder = out or run_folder(network.source) / "evaluation"
        with style():
            picture = draw_report(report, network.config["model"]["name"], images.name)
            picture.save(folder)
        print(folder / f"{picture.name}.png")


def print_scores(console: Console, title: str, scores: Scores) -> None:
    """The figures, then a row for every class."""
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    table = _table("", "", *FIGURES, "n")
    table.add_row("all", *_figures(scores), str(scores.n))
    console.print(table)
    lines = [
        (row.label, str(row.images), _percent(row.recall), _percent(row.precision), row.confused_with or "–")
        for row in scores.classes
    ]
    columns = ("class", "images", "recognised", "right when named", "most taken for")
    console.print(terminal_table(columns, lines, words=("class",)))


def print_report(console: Console, report: BatchNormReport) -> None:
    """Three tables: statistics, batch sizes, layers."""
    table = _table("BatchNorm statistics", "", *FIGURES, "n")
    titles = {
        BATCH: f"batch (of {report.batch_size})",
        RECALIBRATED: f"recalibrated ({report.recalibrated_on:,} images)",
    }
    for name, scores in report.compared.items():
        table.add_row(titles.get(name, name), *_figures(scores), str(scores.n))
    console.print(table)
    table = _table("Batch statistics by batch size", "images a batch", *FIGURES, "n")
    for name, scores in report.other_statistics.items():
        table.add_row(f"any, {name} statistics", *_figures(scores), str(scores.n))
    for size, batch_scores in report.by_batch_size.items():
        cells = ("–",) * 4 if batch_scores is None else (*_figures(batch_scores), str(batch_scores.n))
        table.add_row(str(size), *cells)
    console.print(table)
    title = f"Distance from the running statistics: of batches of {report.batch_size}, of all images together"
    table = _table(title, "norm", "mean, batch", "mean, all", "log var, batch", "log var, all")
    for shift in report.shifts:
        values = (shift.batch_mean, shift.pooled_mean, shift.batch_log_var, shift.pooled_log_var)
        table.add_row(shift.name, *(f"{value:.3f}" for value in values))
    console.print(table)


def draw_report(report: BatchNormReport, model: str, data: str) -> Picture:
    """Accuracy against batch size, and the two distances layer by layer; draw inside `plotting.style()`."""
    figure, (left, middle, right) = grid(3, 3, width=11, height=3.6)
    _draw_batch_sizes(left, report)
    names = [shift.name.removeprefix("blocks.") for shift in report.shifts]
    labels = {"batch": f"distance, a batch of {report.batch_size}", "pooled": "distance, all images"}
    for ax, moment, title in ((middle, "mean", "Shift of the mean"), (right, "log_var", "Change of the log variance")):
        for color, (images, label) in enumerate(labels.items(), start=3):
            values = [getattr(shift, f"{images}_{moment}") for shift in report.shifts]
            ax.plot(range(len(names)), values, **look(color), markersize=4, label=label)
        ax.set(title=title, xticks=range(len(names)), ylim=(0, None))
        ax.set_xticklabels(names, rotation=90, fontsize=7)
    middle.set_ylabel("running standard deviations")
    right.set_ylabel("|ln(variance / running)|")
    legend_above(figure, [left, middle])
    compared = "; ".join(f"{name} {_percent(scores.accuracy)}" for name, scores in report.compared.items())
    caption = (
        f"Left: accuracy by statistics and batch size (n = {next(iter(report.other_statistics.values())).n}). "
        "Middle, right: how far the statistics of arriving images lie from the running ones, mean over features."
    )
    alt = f"Accuracy by BatchNorm statistics: {compared}."
    return Picture(slug("statistics", data), f"BatchNorm statistics of {model} on {data}", caption, alt, figure)


def _draw_batch_sizes(ax: Any, report: BatchNormReport) -> None:
    for index, (name, scores) in enumerate(report.other_statistics.items()):
        ax.axhline(100 * scores.accuracy, **{**look(2 * index), "marker": ""}, label=f"accuracy, {name}")
    accuracies = {size: 100 * scores.accuracy for size, scores in report.by_batch_size.items() if scores is not None}
    ax.plot(list(accuracies), list(accuracies.values()), **look(1), markersize=5, label="accuracy, batch")
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(accuracies), [str(size) for size in accuracies])
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
