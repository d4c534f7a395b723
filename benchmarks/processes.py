"""One run in two processes against the same run in one, 50 steps on mnist5k; docs/scaling.md holds the figures.

python benchmarks/processes.py          # a line per network and precision, about 5 minutes on two cores
"""

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from reliability import ROOT

NETWORKS = ("vit", "vitbnffn", "vitbn")
STEPS = 50
OVERRIDES = ["data=mnist5k", "batch_size=80", "epochs=1", "depth=3", "log_every=1", "logger=none"]
ONE, TWO = ["trainer=cpu"], ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]


def losses(*overrides: str, threads: int = 1) -> list[float]:
    """The training loss of the first steps, as train.py writes it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train.py"), *OVERRIDES, *overrides, f"runs={folder}"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        (path,) = Path(folder).glob("*/*/steps.csv")
        return [float(row["train/loss"]) for row in csv.DictReader(path.open())][:STEPS]


def largest_difference(one: list[float], other: list[float], steps: int = STEPS) -> float:
    """The largest relative difference within so many steps."""
    assert len(one) == len(other) == STEPS
    return max(abs(a - b) / a for a, b in list(zip(one, other, strict=True))[:steps])


def main() -> None:
    for model in NETWORKS:
        for precision in ("64-true", "32-true"):
            fixed = [f"model={model}", f"trainer.precision={precision}"]
            alone = losses(*fixed, *ONE)
            variants = {
                "two processes": losses(*fixed, *TWO),
                "one process of two threads": losses(*fixed, *ONE, threads=2),
                "two processes, BatchNorm apart": losses(*fixed, *TWO, "trainer.sync_batchnorm=false"),
            }
            print(f"{model} {precision}, largest relative difference in {STEPS} steps (in ten):", flush=True)
            for name, other in variants.items():
                print(
                    f"  {name}: {largest_difference(alone, other):.1e} ({largest_difference(alone, other, 10):.1e})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
