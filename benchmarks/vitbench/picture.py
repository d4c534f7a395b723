"""The picture of growth: measured time, the arithmetic's own growth, and the least time the machine could take."""

from pathlib import Path
from typing import Any

import numpy as np

from vitbench.table import limits
from vitbn.plotting import Picture, grid, legend_above, look, style


def draw_growth(result: dict[str, Any], folder: Path, name: str = "growth") -> Path:
    """Write <name>.png and .svg from the result of `python benchmarks/bench.py growth`; the path of the svg."""
    with style():
        figure, axes = grid(len(result["tables"]), columns=2, height=3.1)
        for axis, table in zip(axes, result["tables"], strict=True):
            _panel(axis, table, limits(result)["flop"])
        legend_above(figure, axes)
        alt = "Time of an epoch against depth, batch size, image size and tokens."
        Picture(name, "Growth", "", alt, figure).save(folder)
    return folder / f"{name}.svg"


def _panel(axis: Any, table: dict[str, Any], limit: float) -> None:
    from matplotlib.ticker import LogLocator

    arms = table["arms"]
    places = [int(arm["name"]) for arm in arms]
    median, least, most = (np.array([arm["seconds"][key] for arm in arms]) for key in ("median", "min", "max"))
    arithmetic = np.array([arm["work"]["flop"] for arm in arms])
    possible = arithmetic / limit
    spread = [median - least, most - median]
    axis.errorbar(places, median, spread, capsize=2, label=f"measured (n = {arms[0]['n']})", **look(0))
    grown = median[-1] * arithmetic / arithmetic[-1]
    axis.plot(places, grown, label="growth of the arithmetic alone", **{**look(1), "marker": ""})
    axis.plot(places, possible, label="physical limit", **look(2))
    axis.set(xscale="log", yscale="log", xlabel=table["varied"], ylabel="seconds per epoch")
    axis.fill_between(places, possible, 0.5 * possible.min(), color="#eeeeee", linewidth=0)
    axis.set_xticks(places, [str(place) for place in places])
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
