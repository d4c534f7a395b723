"""The folders of data files that belong to the program: `conf` and `claims`."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def resource_folder(name: str) -> Path:
    """The folder inside the installed package (setup.py puts it there), or at the top of the checkout beside src/."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parents[1] / name
