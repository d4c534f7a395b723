"""Keep the numbers of complete runs, without weights and without the paths of the machine that trained them.

python results/keep.py runs/article     # copies into results/article what is not there yet
"""

import shutil
import sys
from pathlib import Path

import yaml

from vitbn.store.run import COMPLETE, read_result, run_folders

KEPT = Path(__file__).parent
FILES = ("result.json", "metrics.csv", "steps.csv")


def keep(study: Path) -> int:
    """Copy the study's complete runs; returns how many were new."""
    new = 0
    for run in run_folders(study):
        target = KEPT / study.name / run.name
        if (read_result(run) or {}).get("status") not in COMPLETE or target.exists():
            continue
        target.mkdir(parents=True)
        for name in FILES:
            if (run / name).exists():
                shutil.copy(run / name, target / name)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["runs"], config["data"]["root"] = "runs", "data"
        (target / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        new += 1
    return new


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} runs/STUDY...")
    for folder in map(Path, sys.argv[1:]):
        print(f"{folder}: {keep(folder)} runs kept")
