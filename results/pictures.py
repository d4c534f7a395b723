"""Draw the pictures of README.md and docs/results.md from the kept runs.

python results/pictures.py                     # all of them
python results/pictures.py fig8-accuracy       # only docs/images/results/fig8-accuracy.png
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vitbn.analysis.arms import group
from vitbn.analysis.records import read_studies
from vitbn.analysis.report import pictures
from vitbn.plotting import style

KEPT = Path(__file__).parent
IMAGES = KEPT.parent / "docs" / "images" / "results"
# file: its study, its name in the study's report, and which runs it shows
PICTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "fig8-accuracy": ("article", "accuracy-lr0.003", {"lr": [0.003], "depth": [4, 5, 6, 7]}),
    "fig9-accuracy": ("article", "accuracy-lr0.005", {"lr": [0.005], "depth": [1, 2, 3, 4]}),
    "article-accuracy-against-lr": ("article", "accuracy-against-lr", {"depth": [2, 3, 4]}),
    "article-difference": ("article", "difference-ViT-ViTBNFFN", {}),
    "fig1_3-accuracy": ("fig1_3", "accuracy", {}),
    "notebook-accuracy": ("notebook", "accuracy", {}),
}


def draw(name: str) -> None:
    """Write docs/images/results/NAME.png and say what it shows."""
    study, picture_name, wanted = PICTURES[name]
    runs, _ = read_studies([KEPT / study])
    shown = [run for run in runs if all(run.config[key] in values for key, values in wanted.items())]
    with style(), TemporaryDirectory() as folder:
        (picture,) = (picture for picture in pictures(group(shown)) if picture.name == picture_name)
        picture.save(Path(folder))
        shutil.copy(Path(folder) / f"{picture_name}.png", IMAGES / f"{name}.png")
    print(f"{name}.png: {picture.alt}")


if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        draw(name)
