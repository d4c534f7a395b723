"""What a transplant did, as pictures, tables for machines and a table in the terminal."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitbn.inference.transplant import Damage, Site, Step
from vitbn.models.placements import Slot
from vitbn.plotting import Picture, grid, look, style
from vitbn.store import atomic as durable

NO_LESS = 1e-6  # nats; the colours' logarithmic scale needs an end


def write(folder: Path, original: Damage, alone: Mapping[Site, Damage], order: Sequence[Step]) -> None:
    """damage.csv, order.csv and both pictures as PNG and SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(folder / "damage.csv", [_row(site, damage) for site, damage in alone.items()])
    rows = [{"step": n, **_row(step.site, step.damage)} for n, step in enumerate(order, start=1)]
    nothing = {"step": 0, "slot": None, "layer": None, **vars(original)}
    _write_csv(folder / "order.csv", [nothing, *rows])
    with style():
        for picture in (heat_map(original, alone), greedy_order(original, order)):
            picture.save(folder)


def _row(site: Site, damage: Damage) -> dict[str, Any]:
    return {"slot": str(site.slot), "layer": None if site.layer is None else site.layer + 1, **vars(damage)}


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    durable.write_text(path, text.getvalue())


def heat_map(original: Damage, alone: Mapping[Site, Damage]) -> Picture:
    """Rows slots, columns layers: the damage if only that norm is replaced; grey where no norm stands."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm

    slots = [slot for slot in Slot if any(site.slot == slot for site in alone)]
    depth = max((site.layer + 1 for site in alone if site.layer is not None), default=0)
    table = np.full((len(slots), depth + 2), np.nan)
    for site, damage in alone.items():
        table[slots.index(site.slot), _column(site, depth)] = max(damage.kl, NO_LESS)
    figure, (ax,) = grid(1, 1, width=max(6.4, 0.8 * (depth + 2) + 3), height=0.5 * len(slots) + 1.3)
    scale = LogNorm(NO_LESS if np.nanmax(table) <= NO_LESS else np.nanmin(table), max(np.nanmax(table), 2 * NO_LESS))
    blues = ListedColormap(colormaps["Blues"](np.linspace(0.12, 1, 256)))  # the palest is no white
    image = ax.imshow(np.ma.masked_invalid(table), cmap=blues, norm=scale, aspect="auto")
    ax.set(xlabel="encoder block", xticks=range(depth + 2), yticks=range(len(slots)), facecolor="#eeeeee")
    ax.set_xticklabels(["before", *range(1, depth + 1), "after"])
    ax.set_yticklabels(slots)
    ax.grid(False)
    ax.set_xticks(np.arange(depth + 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(len(slots) - 1) + 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=2)
    ax.tick_params(which="both", length=0)
    ax.set_axisbelow(False)
    for site, damage in alone.items():
        row, column = slots.index(site.slot), _column(site, depth)
        dark = scale(table[row, column]) > 0.5
        ax.text(column, row, _words(original, damage), ha="center", va="center", color="white" if dark else "black")
    figure.colorbar(image, ax=ax, label="divergence (nats)", shrink=0.9, format="%g")
    numbers = "change of accuracy in points" if original.accuracy is not None else "changed predictions (%)"
    title = "Damage of replacing one LayerNorm by BatchNorm"
    caption = f"Colour: divergence from the original's predictions; number: {numbers}. Calibrated, not trained."
    words = ", ".join(f"{site} {_words(original, damage)}" for site, damage in alone.items())
    ax.set_title(f"Number: {numbers}", fontsize="medium", fontweight="normal")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return Picture("transplant-damage", title, caption, f"Heat map over slots and layers. {words}.", figure)


def _column(site: Site, depth: int) -> int:
    if site.layer is not None:
        return site.layer + 1
    return depth + 1 if site.slot == Slot.final else 0


def _words(original: Damage, damage: Damage) -> str:
    if damage.accuracy is None or original.accuracy is None:
        return f"{100 * damage.changed:.1f}"
    return f"{100 * (damage.accuracy - original.accuracy):+.1f}".replace("-", "−")


def greedy_order(original: Damage, order: Sequence[Step]) -> Picture:
    """Accuracy (or unchanged predictions) and divergence after each replacement of the greedy order."""
    figure, (above, below) = grid(2, 1, height=2.3, width=max(6.4, 0.5 * len(order) + 3), sharex=True)
    damages = [original, *(step.damage for step in order)]
    known = original.accuracy is not None
    shares = [100 * (d.accuracy if d.accuracy is not None else 1 - d.changed) for d in damages]
    above.plot(shares, **look(0))
    above.set_ylabel("accuracy (%)" if known else "unchanged (%)")
    below.plot([d.kl if d.kl > 0 else math.nan for d in damages], **look(1))  # before the first, there is none
    below.set_yscale("log")
    below.set(ylabel="divergence (nats)", xlabel="replaced, in this order", xticks=range(len(damages)))
    below.set_xticklabels(["none", *(str(step.site) for step in order)], rotation=45, ha="right")
    title = "Replacing one norm after the other, the least damaging next"
    above.set_title(title)
    words = ", ".join(f"{step.site} {share:.1f}" for step, share in zip(order, shares[1:], strict=True))
    caption = "After each replacement all BatchNorms so far are calibrated anew, in the order the data passes them."
    return Picture("transplant-order", title, caption, f"Lines falling from {shares[0]:.1f} %: {words}.", figure)


def print_tables(original: Damage, alone: Mapping[Site, Damage], order: Sequence[Step]) -> None:
    """The heat map's numbers and the order, in the terminal."""
    from rich.console import Console
    from rich.table import Table

    damaged = Table(title="damage of one replacement", title_justify="left")
    ordered = Table(title="all replacements, the least damaging next", title_justify="left")
    rows = [(str(site), damage) for site, damage in alone.items()]
    steps = [("none", original), *((str(step.site), step.damage) for step in order)]
    for table, content in ((damaged, rows), (ordered, steps)):
        for column in ("norm", "divergence (nats)", "changed predictions", "accuracy"):
            table.add_column(column, justify="left" if column == "norm" else "right")
        for name, damage in content:
            accuracy = "–" if damage.accuracy is None else f"{damage.accuracy:.2%}"
            kl = f"{damage.kl:.4f}" if math.isfinite(damage.kl) else "not finite"
            table.add_row(name, kl, f"{damage.changed:.2%}", accuracy)
        Console().print(table)
