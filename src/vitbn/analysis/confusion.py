"""The most confused classes: counts on the clean test images, as numbers and as a picture."""

import numpy as np

from vitbn.analysis.arms import Arm
from vitbn.analysis.formatting import percent
from vitbn.plotting import Picture, grid


def confusion(arm: Arm) -> np.ndarray | None:
    """Test counts (true, predicted) summed over the arm's finished runs."""
    tables = [run.result["confusion"] for run in arm.runs if run.status == "done" and run.result.get("confusion")]
    shapes = {np.shape(table) for table in tables}
    return np.sum(tables, axis=0) if len(shapes) == 1 else None


def most_confused(counts: np.ndarray, most: int = 10) -> list[tuple[int, int, int, float]]:
    """(true, predicted, images, share of the true class), most images first."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places = [tuple(int(i) for i in np.unravel_index(flat, wrong.shape)) for flat in order]
    return [(i, j, int(wrong[i, j]), wrong[i, j] / max(counts[i].sum(), 1)) for i, j in places if wrong[i, j]]


def confusions(arms: list[Arm]) -> list[Picture]:
    """Which true class was taken for which other, in percent of the true class; at most four arms."""
    tables = [(arm, counts) for arm in arms if (counts := confusion(arm)) is not None][:4]
    if not tables:
        return []
    figure, axes = grid(len(tables), 2, height=4.3)
    shares = [100 * counts / np.maximum(counts.sum(1, keepdims=True), 1) for _, counts in tables]
    top = max(max((share - np.diag(np.diag(share))).max() for share in shares), 0.1)
    for ax, (arm, _), share in zip(axes, tables, shares, strict=True):
        shown = np.where(np.eye(len(share), dtype=bool), np.nan, share)
        image = ax.imshow(shown, cmap="Blues", vmin=0, vmax=top)
        ax.set(
            title=arm.name,
            xlabel="predicted",
            ylabel="true",
            xticks=range(len(share)),
            yticks=range(len(share)),
        )
        ax.grid(False)
        for row, column in np.ndindex(share.shape):
            value, diagonal = share[row, column], row == column
            if diagonal or value >= 0.05:
                colour = "#777777" if diagonal else "white" if value > 0.6 * top else "black"
                ax.text(column, row, f"{value:.0f}" if diagonal else f"{value:.1f}", ha="center", va="center",
                        fontsize=7, color=colour)  # fmt: skip
    figure.colorbar(image, ax=axes, label="share of the true class (%)", shrink=0.8)
    words = "; ".join(
        f"{arm.name}: " + ", ".join(f"{i} as {j} {percent(s)}" for i, j, _, s in most_confused(counts, 3))
        for arm, counts in tables
    )
    caption = "Clean test images, all finished runs of an arm together, in percent; diagonal: correct."
    return [Picture("confusion", "Confused classes", caption, f"Confusion. Most confused: {words}.", figure)]
