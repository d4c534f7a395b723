"""Accuracy after training: against depth and learning rate, as a heat map, paired differences, confused classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitbn.analysis.arms import Arm, cells, looks, placement_pairs
from vitbn.analysis.comparisons import Difference, differences, final_accuracies
from vitbn.analysis.formatting import cell_text, percent, points
from vitbn.analysis.records import RunRecord
from vitbn.analysis.stats import mean_interval
from vitbn.plotting import (
    COLOURS,
    MOST_SINGLE,
    Picture,
    fit_to_lines,
    fitted,
    grid,
    legend_above,
    set_title,
    shorten,
    slug,
)
from vitbn.terminal import printable

_DIFFERENCES = (
    "Mean difference of validation accuracy after the last epoch with its 95 % interval, cut at the axis; "
    "grey: the interval includes zero, or there is none; "
    "ticks: single seeds (at most 30); a cross instead of a dot: diverged runs among them, scored as guesses."
)
OPEN = "#777777"  # of a difference whose interval names no leader
MOST_NUMBERED = 20  # classes; the numbers of more would be printed over each other
AXIS_LABELS = {"depth": "depth (encoder layers)", "lr": "learning rate"}


def accuracy_against(axis: str, arms: list[Arm]) -> list[Picture]:
    """Accuracy after the last epoch over depth (a panel per learning rate) or the reverse."""
    style, pictures = looks(arms), []
    for setting in dict.fromkeys(arm.setting for arm in arms):
        members = [arm for arm in arms if arm.setting == setting]
        panels: dict[Any, list] = {}
        for depth, lr in cells(members):
            if any(final_accuracies(arm.at(depth, lr)) for arm in members):
                fixed, x = (lr, depth) if axis == "depth" else (depth, lr)
                if x is not None:  # the depth of a network that has none
                    panels.setdefault(fixed, []).append(x)
        order = sorted(panels, key=lambda fixed: fixed or 0)
        panels = {fixed: panels[fixed] for fixed in order if len(panels[fixed]) > 1}
        if not panels:
            continue
        figure, axes = grid(len(panels), 3 if len(panels) > 4 else 2, height=3.2, sharey=True)
        for ax, (fixed, xs) in zip(axes, panels.items(), strict=True):
            for number, arm in enumerate(members):
                offset = number - (len(members) - 1) / 2  # or one interval would cover the other
                points = [
                    (x + 0.04 * offset, arm.at(x, fixed)) if axis == "depth" else (x * 1.012**offset, arm.at(fixed, x))
                    for x in xs
                ]
                _points(ax, points, arm.placement, style[arm.placement])
            title = f"learning rate {fixed:g}" if axis == "depth" else f"depth {fixed}"
            ax.margins(x=0.08)
            set_title(ax, title if fixed is not None else "")
            ax.set(xlabel=AXIS_LABELS[axis], xticks=xs)
            if axis == "lr":
                ax.set_xscale("log")
                ax.set_xticks(xs, [f"{x:g}" for x in xs])
                ax.minorticks_off()
            if ax.get_subplotspec().is_first_col():
                ax.set_ylabel("validation accuracy (%)")
        fit_to_lines(axes)
        legend_above(figure, axes)
        name = "depth" if axis == "depth" else "learning rate"
        title = f"Accuracy after the last epoch against {name} {setting}".strip()
        caption = (
            "Mean over the runs that are done, 95 % interval over seeds (t), cut at the axis; small: at most 30 runs."
        )
        alt = f"Validation accuracy against {name}. {_table_in_words(members)}"
        pictures.append(Picture(slug("accuracy-against", axis, setting), title, caption, alt, figure))
    return pictures


def _points(ax: Any, points: Sequence[tuple[Any, list[RunRecord]]], label: str, look: dict[str, Any]) -> None:
    accuracies = [(x, 100 * np.array(values)) for x, runs in points if (values := final_accuracies(runs))]
    for x, seeds in accuracies:
        single = seeds[:MOST_SINGLE]
        ax.plot([x] * len(single), single, look["marker"], color=look["color"], alpha=0.4, markersize=3.5)
    xs, means = [x for x, _ in accuracies], [mean_interval(seeds.tolist()) for _, seeds in accuracies]
    ax.plot(xs, [mean.estimate for mean in means], **look, linewidth=1.8, markersize=5.5, label=label)
    for x, mean in zip(xs, means, strict=True):
        if mean.low is not None and mean.high is not None:
            ax.vlines(x, max(mean.low, 0), min(mean.high, 100), color=look["color"], alpha=0.55, linewidth=1.4)


def heat_maps(arms: list[Arm]) -> list[Picture]:
    """Depth against learning rate, a panel per arm; where both vary."""
    depths = sorted({depth for depth, _ in cells(arms) if depth is not None})
    rates = sorted({lr for _, lr in cells(arms) if lr is not None})
    if len(depths) < 2 or len(rates) < 2:
        return []
    figure, axes = grid(len(arms), 3, height=0.42 * len(depths) + 1.3, sharey=True)
    means = {arm.name: np.array([[_mean(arm.at(d, lr)) for lr in rates] for d in depths]) for arm in arms}
    known = np.concatenate([table[np.isfinite(table)] for table in means.values()])
    if not len(known):
        return []
    for ax, arm in zip(axes, arms, strict=True):
        table = means[arm.name]
        image = ax.imshow(table, cmap="cividis", vmin=known.min(), vmax=known.max(), aspect="auto", origin="lower")
        set_title(ax, arm.name)
        ax.set(xlabel="learning rate", xticks=range(len(rates)), yticks=range(len(depths)))
        ax.set_xticklabels([f"{lr:g}" for lr in rates])
        ax.set_yticklabels(depths)
        ax.grid(False)
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel("depth (encoder layers)")
        for row, column in np.ndindex(table.shape):
            value, n = table[row, column], len(final_accuracies(arm.at(depths[row], rates[column])))
            light = value > (known.min() + known.max()) / 2
            if n:
                ax.text(column, row, f"{value:.1f}  (n={n})", ha="center", va="center", fontsize=9,
                        color="black" if light else "white")  # fmt: skip
    figure.colorbar(image, ax=axes, label="validation accuracy (%)", shrink=0.9)
    caption = "Mean validation accuracy after the last epoch, n runs that are done."
    alt = f"Heat map of accuracy over depth and learning rate. {_table_in_words(arms)}"
    return [Picture("heat-map", "Depth and learning rate", caption, alt, figure)]


def _mean(runs: list[RunRecord]) -> float:
    accuracies = final_accuracies(runs)
    return 100 * float(np.mean(accuracies)) if accuracies else float("nan")


def paired_differences(arms: list[Arm]) -> list[Picture]:
    """Per two placements how far one is ahead at equal seed, a row per setting, depth and learning rate."""
    rows: dict[tuple[str, str], list[tuple[str, Difference]]] = {}
    for first, second in placement_pairs(arms):
        for row in differences(first, second):
            words = f"{first.setting} {cell_text(row.depth, row.lr)}".strip()
            rows.setdefault((first.placement, second.placement), []).append((f"{words}  (n={row.interval.n})", row))
    return [_forest(*names, differences_of) for names, differences_of in rows.items()]


def _forest(first: str, second: str, rows: list[tuple[str, Difference]]) -> Picture:
    figure, (ax,) = grid(1, 1, height=0.34 * len(rows) + 0.7)
    reach = 1.25 * max(100 * abs(value) for _, row in rows for value in row.values) + 0.5
    for height, (_, row) in enumerate(rows):
        _difference(ax, height, row)
    smallest = min(100 * abs(row.interval.estimate) for _, row in rows)
    if reach > 12 and smallest < 2:  # one collapsed run must not hide the small effects
        ax.set_xscale("symlog", linthresh=1, linscale=0.6)
        ticks = [sign * tick for sign in (-1, 1) for tick in (1, 2, 5, 10, 20, 50) if tick < reach]
        ax.set_xticks([0, *ticks], [f"{tick:g}" for tick in [0, *ticks]])
        ax.minorticks_off()
    ax.axvline(0, color="#333333", linewidth=1)
    ax.set(yticks=range(len(rows)), xlim=(-reach, reach), ylim=(len(rows) - 0.4, -0.6))
    letters = 4.5 * figure.get_figwidth()
    labels = [fitted(label, letters) for label, _ in rows]
    ax.set_yticklabels(labels)
    if (lines := max(label.count("\n") for label in labels) + 1) > 1:
        figure.set_figheight((0.17 * lines + 0.1) * len(rows) + 0.9)
    scale = " (linear to ±1, logarithmic beyond)" if ax.get_xscale() == "symlog" else ""
    ahead = f"← {first} ahead      {second} ahead →"
    ax.set_xlabel(f"{fitted(ahead, 8 * figure.get_figwidth())}\npercentage points{scale}")
    words = "; ".join(f"{label} {points(row.interval.estimate)} points" for label, row in rows)
    title = f"{second} against {first}, same seeds"
    return Picture(slug("difference", first, second), title, _DIFFERENCES, f"Paired differences. {words}.", figure)


def _difference(ax: Any, height: int, row: Difference) -> None:
    interval, colour = row.interval, OPEN
    if interval.low is not None and interval.high is not None:
        colour = COLOURS[1] if interval.low > 0 else COLOURS[0] if interval.high < 0 else OPEN
        ax.hlines(height, 100 * interval.low, 100 * interval.high, color=colour, linewidth=2.2)
    single = [100 * value for value in row.values[:MOST_SINGLE]]
    ax.plot(single, [height] * len(single), "|", color="#555555", markersize=9)
    ax.plot(100 * interval.estimate, height, "X" if row.diverged else "o", color=colour, markersize=7)


def _table_in_words(arms: list[Arm]) -> str:
    texts = []
    for arm in arms:
        for depth, lr in cells([arm]):
            if accuracies := final_accuracies(arm.at(depth, lr)):
                texts.append(f"{arm.name} {cell_text(depth, lr)}: {percent(float(np.mean(accuracies)))}")
    return "; ".join(texts) + "." if texts else "No run is done."


def confusion(arm: Arm) -> np.ndarray | None:
    """Test counts (true, predicted) summed over the arm's done runs."""
    tables = [run.result["confusion"] for run in arm.runs if run.status == "done" and run.result.get("confusion")]
    shapes = {np.shape(table) for table in tables}
    return np.sum(tables, axis=0) if len(shapes) == 1 else None


def class_names(arm: Arm, count: int) -> list[str]:
    """What the classes are called; numbers where the runs do not say."""
    recorded = [run.result.get("classes") or [] for run in arm.runs]
    names: list[Any] = next((names for names in recorded if len(names) == count), list(range(count)))
    return [printable(str(name)) for name in names]


def most_confused(counts: np.ndarray, most: int = 10) -> list[tuple[int, int, int, float]]:
    """(true, predicted, images, share of the true class), most images first."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [tuple(int(i) for i in np.unravel_index(flat, wrong.shape)) for flat in order]
    return [(i, j, int(wrong[i, j]), wrong[i, j] / max(counts[i].sum(), 1)) for i, j in pairs if wrong[i, j]]


def confusions(arms: list[Arm]) -> list[Picture]:
    """Which true class was taken for which other, in percent of the true class; at most four arms."""
    tables = [(arm, counts) for arm in arms if (counts := confusion(arm)) is not None][:4]
    if not tables:
        return []
    figure, axes = grid(len(tables), 2, height=4.3)
    shares = [100 * counts / np.maximum(counts.sum(1, keepdims=True), 1) for _, counts in tables]
    top = max(max((share - np.diag(np.diag(share))).max() for share in shares), 0.1)
    for ax, (arm, _), share in zip(axes, tables, shares, strict=True):
        off_diagonal = np.where(np.eye(len(share), dtype=bool), np.nan, share)
        image = ax.imshow(off_diagonal, cmap="Blues", vmin=0, vmax=top)
        set_title(ax, arm.name)
        ax.set(
            xlabel="predicted",
            ylabel="true",
            xticks=range(len(share)),
            yticks=range(len(share)),
        )
        names = [shorten(name, 16) for name in class_names(arm, len(share))]
        small = 9 if len(names) <= MOST_NUMBERED else 4
        ax.set_xticklabels(names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=small)
        ax.set_yticklabels(names, fontsize=small)
        ax.grid(False)
        for row, column in np.ndindex(share.shape):
            value, diagonal = share[row, column], row == column
            if len(share) <= MOST_NUMBERED and (diagonal or value >= 0.05):
                colour = "#777777" if diagonal else "white" if value > 0.6 * top else "black"
                ax.text(column, row, f"{value:.0f}" if diagonal else f"{value:.1f}", ha="center", va="center",
                        fontsize=7, color=colour)  # fmt: skip
    figure.colorbar(image, ax=axes, label="share of the true class (%)", shrink=0.8)
    words = "; ".join(
        f"{arm.name}: " + ", ".join(f"{names[i]} as {names[j]} {percent(s)}" for i, j, _, s in most_confused(counts, 3))
        for arm, counts in tables
        if (names := class_names(arm, len(counts)))
    )
    caption = "Clean test images, all done runs of an arm together, in percent; diagonal: correct."
    return [Picture("confusion", "Confused classes", caption, f"Confusion. Most confused: {words}.", figure)]
