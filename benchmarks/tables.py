"""Write the tables of docs/performance.md from benchmarks/results/*.json, so that the two cannot disagree.

python benchmarks/tables.py
"""

from pathlib import Path

from vitbench.table import filled

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"

if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(), ROOT / "benchmarks" / "results"))
