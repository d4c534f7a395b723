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
        if (run / "instruments.csv").exists():
            (target / "instruments.csv").write_text(first_and_last((run / "instruments.csv").read_text()))
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["runs"], config["data"]["root"] = "runs", "data"
        (target / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        new += 1
    return new


def first_and_last(measured: str) -> str:
    """Of instruments.csv what verdicts and the table in "Why" read: the end of the first epoch, and the last values."""
    header, *lines = measured.splitlines()
    steps = {line.split(",")[1]: line.split(",")[0] for line in lines}  # epoch -> its last step
    kept = {steps.get("1"), lines[-1].split(",")[0]} if lines else set()
    return "\n".join([header, *(line for line in lines if line.split(",")[0] in kept), ""])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} runs/STUDY...")
    for folder in map(Path, sys.argv[1:]):
        print(f"{folder}: {keep(folder)} runs kept")
