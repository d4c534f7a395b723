"""What becomes slow with the number of runs: a simulated study of finished runs, and the commands that read it.

python benchmarks/scale.py --runs 10000 --rounds 3    # a line per command: median, smallest and largest seconds

Every run gets the configuration and the name that train.py would give it; its curve and its result are those of a run
of results/article, in turn. Needs no data and trains nothing.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from vitbn.config.sweep import command_jobs
from vitbn.store.plan import write_plan
from vitbn.store.run import Run

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10000, help="a multiple of 20")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if not args.runs or args.runs % 20:
        parser.error(f"--runs {args.runs}: must be a multiple of 20")
    with tempfile.TemporaryDirectory() as folder:
        seeds = f"seed=range({args.runs // 20})"
        words = ["model=vit,vitbnffn", "depth=2,3,4,5,6", "lr=0.003,0.005", seeds, "study=many", f"runs={folder}"]
        simulate(words)
        study, python = Path(folder) / "many", Path(sys.executable)
        commands = {
            "status": [python, "-m", "vitbn.cli", "status", study],
            "report": [python, "-m", "vitbn.cli", "report", study],
            "sweep typed again": [python, ROOT / "train.py", "-m", *words],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                started = time.perf_counter()
                subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
                seconds[name].append(time.perf_counter() - started)
    for name, each in seconds.items():
        spread = f"{min(each):.1f}–{max(each):.1f}"
        print(f"{name:20s}{args.runs:,} runs, {statistics.median(each):.1f} s ({spread}, n={len(each)})")


def simulate(words: list[str]) -> None:
    """Folders as finished runs leave them, without checkpoints."""
    kept = sorted(path.parent for path in ROOT.glob("results/article/*/result.json"))
    started, jobs = time.perf_counter(), command_jobs(words)
    print(f"{'composing alone':20s}{1000 * (time.perf_counter() - started) / len(jobs):.2f} ms per run")
    runs = [Run(job.config) for job in jobs]
    for number, run in enumerate(runs):
        model = kept[number % len(kept)]
        run.folder.mkdir(parents=True)
        (run.folder / "config.yaml").write_text(yaml.dump(run.config, Dumper=yaml.CSafeDumper, sort_keys=False))
        result = json.loads((model / "result.json").read_text())
        result |= {"run": run.labels, "config_hash": run.id.rpartition("-")[2]}
        (run.folder / "result.json").write_text(json.dumps(result, indent=2))
        shutil.copy(model / "metrics.csv", run.folder)
    write_plan(runs[0].study, runs)


if __name__ == "__main__":
    main()
