"""docs/architecture.md against the tree, and no room imports one above it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# from the ground up; a room imports only from floors below its own
FLOORS = (
    ("errors", "rng", "progress", "plotting", "resources", "terminal"),
    ("norms",),
    ("models",),
    ("store",),
    ("data",),
    ("weights",),
    ("config", "training", "analysis", "inference"),
    ("serve", "train"),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted((ROOT / "src" / "vitbn").rglob("*.py"))


def room(module: str) -> str:
    return module.split(".")[1]


def imported_rooms(file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "vitbn":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vitbn."):
            rooms.add(room(node.module))
        elif isinstance(node, ast.Import):
            rooms |= {room(alias.name) for alias in node.names if alias.name.startswith("vitbn.")}
    return rooms & FLOOR.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT / "src" / "vitbn")))
def test_a_room_imports_only_from_floors_below(file):
    own = room("vitbn." + file.relative_to(ROOT / "src" / "vitbn").with_suffix("").parts[0])
    if own == "__init__":
        return
    above = {other for other in imported_rooms(file) - {own} if FLOOR[other] >= FLOOR[own]}
    assert not above, f"{own} must not import {', '.join(above)}"


def test_every_module_is_on_a_floor():
    rooms = {path.stem for path in (ROOT / "src" / "vitbn").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__pycache__"} == FLOOR.keys()


def test_what_reports_mistyped_keys_and_reads_studies_needs_no_torch():
    """A mistyped key is reported within a second."""
    modules = "vitbn.config.checks, vitbn.store.run, vitbn.analysis.commands"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'pytorch_lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "page",
    [
        "docs/architecture.md",
        "CONTRIBUTING.md",
        *(f"benchmarks/{name}.md" for name in ("README", "reliability", "scaling", "speed")),
    ],
)
def test_every_file_that_a_page_names_exists(page):
    """Paths from the repository's root or from src/vitbn; NAME and ID stand for any name."""
    paths = re.findall(r"`((?:[\w-]+/)+[\w.-]*)`", (ROOT / page).read_text())
    named = [path for path in paths if not re.search(r"NAME|ID\b|^(runs|val|test|train)/\w*$", path)]
    missing = [path for path in named if not (ROOT / path).exists() and not (ROOT / "src" / "vitbn" / path).exists()]
    assert named and not missing


def test_every_module_stands_on_the_page():
    text = (ROOT / "docs" / "architecture.md").read_text()
    modules = [str(file.relative_to(ROOT / "src" / "vitbn")) for file in FILES if file.name != "__init__.py"]
    assert not [module for module in modules if f"`{module}`" not in text]


def test_no_test_imports_another():
    importing = [
        str(file.relative_to(ROOT))
        for file in (ROOT / "tests").rglob("*.py")
        if re.search(r"^\s*(from|import) \S*\btest_|^from tests\S* import .*\btest_", file.read_text(), re.MULTILINE)
    ]
    assert not importing
