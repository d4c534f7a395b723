"""Write the tables of benchmarks/speed.md from benchmarks/results/*.json, so that the two cannot disagree.

python benchmarks/tables.py
"""

from pathlib import Path

from vitbench.table import filled

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "benchmarks" / "speed.md"

if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(), ROOT / "benchmarks" / "results"))
