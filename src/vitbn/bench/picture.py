"""The picture of growth: measured time, the arithmetic's own growth, and the least time the machine could take."""

from pathlib import Path
from typing import Any

from vitbn.analysis.canvas import Picture, grid, legend_above, look, style
from vitbn.bench.table import limits


def draw_growth(result: dict[str, Any], folder: Path, name: str = "growth") -> Path:
    """Write <name>.png and .svg from the result of `vitbn bench growth`; the path of the svg."""
    with style():
        figure, axes = grid(len(result["tables"]), columns=2, height=3.1)
        for axis, table in zip(axes, result["tables"], strict=True):
            _panel(axis, table, limits(result)["flop"])
        legend_above(figure, axes)
        alt = "Time of an epoch against depth, batch size, image size and tokens."
        Picture(name, "Growth", "", alt, figure).save(folder)
    return folder / f"{name}.svg"


def _panel(axis: Any, table: dict[str, Any], limit: float) -> None:
    arms = table["arms"]
    places = [int(arm["name"]) for arm in arms]
    median, least, most = ([arm["seconds"][key] for arm in arms] for key in ("median", "min", "max"))
    arithmetic = [arm["work"]["flop"] for arm in arms]
    spread = [[m - low for m, low in zip(median, least, strict=True)],
              [high - m for m, high in zip(median, most, strict=True)]]  # fmt: skip
    axis.errorbar(places, median, spread, capsize=2, label=f"measured (median, min–max, n = {arms[0]['n']})", **look(0))
    grown = [median[-1] * flop / arithmetic[-1] for flop in arithmetic]
    axis.plot(places, grown, label="growth of the arithmetic, through the last point", **{**look(1), "marker": ""})
    possible = [flop / limit for flop in arithmetic]
    axis.plot(places, possible, label="physical limit: the arithmetic at the measured peak", **look(2))
    axis.set(xscale="log", yscale="log", title=table["title"], xlabel=table["varied"], ylabel="seconds per epoch")
    axis.set_xticks(places, [str(place) for place in places])
    axis.minorticks_off()
