"""How pictures of a study look, and how they reach the disk."""

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Okabe and Ito's colours (2008), told apart under colour blindness; their yellow is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_SINGLE = 30  # runs of a cell drawn singly; more are a smear, and take minutes
STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture everywhere
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.edgecolor": "#666666",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.facecolor": "white",
    "svg.hashsalt": "vitbn",  # the same figure gives the same file
    "text.parse_math": False,  # names are text, dollars and all
}
NARROW = 4.4  # inches: with panels below each other the letters of a picture can be read on a phone
_narrow = ContextVar("narrow", default=False)


@dataclass(frozen=True)
class Picture:
    """A figure with the words that go with it."""

    name: str  # of its files
    title: str
    caption: str
    alt: str  # what it shows, for those who cannot see it
    figure: Any

    def save(self, folder: Path) -> None:
        """Write <name>.png and <name>.svg, without a date: the same runs give the same files."""
        folder.mkdir(parents=True, exist_ok=True)
        self.figure.draw_without_rendering()  # lays out, once instead of at every save
        self.figure.set_layout_engine("none")
        self.figure.savefig(folder / f"{self.name}.png", dpi=150)
        self.figure.savefig(folder / f"{self.name}.svg", metadata={"Date": None})

    def svg(self) -> bytes:
        """The picture for a page."""
        file = io.BytesIO()
        self.figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()


@contextmanager
def style(narrow: bool = False) -> Iterator[None]:
    """Draw and save inside this; `narrow` figures have one panel in a row."""
    import matplotlib

    token = _narrow.set(narrow)
    try:
        with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
            yield
    finally:
        _narrow.reset(token)


def look(index: int) -> dict[str, Any]:
    """Colour, dash and marker of the n-th line, so that colour is never the only difference."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def grid(panels: int, columns: int, width: float = 9.6, height: float = 2.9, **options: Any) -> tuple[Any, list]:
    """A figure with so many panels in rows of `columns`."""
    from matplotlib.figure import Figure

    columns = max(1, min(columns, panels))
    if _narrow.get():
        columns, width = 1, NARROW
    rows = -(-panels // columns)
    figure = Figure(figsize=(width, height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for empty in axes[panels:]:
        empty.set_visible(False)
    return figure, list(axes[:panels])


def fit_to_lines(axes: list) -> None:
    """Limit the shared y axis to the lines: wide bands of few seeds must not flatten the curves."""
    import numpy as np

    drawn = [np.asarray(line.get_ydata(), dtype=float) for ax in axes for line in ax.lines]
    values = np.concatenate([ys[np.isfinite(ys)] for ys in drawn] or [np.empty(0)])
    if len(values):
        room = 0.04 * (np.ptp(values) or 1.0)
        axes[0].set_ylim(values.min() - room, values.max() + room)


def legend_above(figure: Any, axes: list, *more: Any) -> None:
    """One legend for all panels, above them; `more` are further lines to explain."""
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    handles |= {line.get_label(): line for line in more}
    wide = figure.get_figwidth() > NARROW
    longest = max(map(len, handles), default=1)
    columns = max(1, min(4 if wide else 2, len(handles), int(figure.get_figwidth() * 11 / (longest + 6))))
    labels = [fitted(label, figure.get_figwidth() * 10 / columns) for label in handles]
    figure.legend(handles.values(), labels, loc="outside upper left", ncols=columns)


def fitted(text: str, letters: float) -> str:
    """The text in lines of at most so many letters."""
    return textwrap.fill(text, max(12, int(letters)), break_on_hyphens=False)


def shorten(text: str, letters: int) -> str:
    """The text, or its beginning where it is longer."""
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def set_title(ax: Any, text: str) -> None:
    """A title that stays above its own panel."""
    letters = 8.2 * ax.figure.get_figwidth() / ax.get_subplotspec().get_gridspec().ncols - 4
    ax.set_title(fitted(text, letters))


def plain_numbers(axis: Any) -> None:
    """Label a logarithmic axis without formulas, which STYLE does not read: at 2 and 5 too where it is short."""

    def label(value: float, _: object) -> str:
        low, high = axis.get_view_interval()
        return f"{value:g}" if f"{value:e}"[0] in ("125" if high < 100 * low else "1") else ""

    axis.set_major_formatter(label)
    axis.set_minor_formatter(label)


def slug(*parts: Any) -> str:
    """Parts joined to a file name."""
    joined = "-".join(str(part) for part in parts if part not in (None, ""))
    return "".join(char if char.isalnum() or char in ".-" else "-" for char in joined)
