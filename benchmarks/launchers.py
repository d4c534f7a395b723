"""The ways to train many runs on one machine, tried for real on mnist5k; docs/scaling.md holds the figures.

python benchmarks/launchers.py throughput --rounds 3   # images per second of four runs under each way, alternating
python benchmarks/launchers.py kill                    # SIGKILL of a worker in the middle, then the command again
python benchmarks/launchers.py kill joblib ray         # under these launchers only; those not installed are left out
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reliability import ROOT, outcomes

from vitbn.config.checks import check_launcher
from vitbn.errors import InputError

IMAGES = 4_000  # of an epoch of mnist5k
LAUNCHERS = ("joblib", "ray", "slurm_local")


def sweep(launcher: str, folder: Path, *overrides: str) -> "subprocess.Popen[str]":
    """The real command; its output goes into a file beside the study."""
    command = [sys.executable, str(ROOT / "train.py"), "-m", f"hydra/launcher={launcher}", "data=mnist5k"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with open(folder.with_suffix(".log"), "w") as log:
        study = [f"runs={folder.parent}", f"study={folder.name}"]
        return subprocess.Popen(
            [*command, *overrides, *study], env=environment, stdout=log, stderr=log, start_new_session=True
        )


def installed() -> list[str]:
    """Hydra's own launcher and those of the extras that can be tried here."""
    names = ["basic"]
    for name in LAUNCHERS:
        try:
            check_launcher(name)
        except InputError:
            continue
        names.append(name)
    return names


def throughput(launchers: list[str], folder: Path, rounds: int) -> None:
    """Four runs of depth 4 and five epochs, wall clock from Enter to the end."""
    overrides = ["epochs=5", "depth=4", "seed=0,1,2,3", "logger=none"]
    seconds: dict[str, list[float]] = {name: [] for name in launchers}
    for number in range(rounds):
        for name in (*launchers[number % len(launchers) :], *launchers[: number % len(launchers)]):
            study = folder / f"{name}{number}"
            began = time.perf_counter()
            status = sweep(name, study, *overrides).wait()
            seconds[name].append(time.perf_counter() - began)
            assert status == 0 and len(outcomes(study)) == 4, study.with_suffix(".log").read_text()
            print(f"round {number + 1}/{rounds}  {name}: {seconds[name][-1]:.1f} s", flush=True)
    for name, taken in seconds.items():
        speed = sorted(4 * 5 * IMAGES / value for value in taken)
        ratio = statistics.median(one / other for one, other in zip(seconds["basic"], taken, strict=True))
        spread = f"{statistics.median(speed):,.0f} images/s ({speed[0]:,.0f}–{speed[-1]:,.0f}, n={len(taken)})"
        print(f"{name:16s}{spread}, {ratio:.2f} times basic")


def kill(launchers: list[str], folder: Path, rounds: int) -> None:
    """A worker is killed after its second epoch; both runs must end as undisturbed ones."""
    overrides = ["epochs=6", "depth=1", "seed=0,1"]
    assert sweep("joblib" if "joblib" in launchers else "basic", folder / "undisturbed", *overrides).wait() == 0
    expected = outcomes(folder / "undisturbed")
    for name in [launcher for launcher in launchers if launcher != "basic"]:
        study = folder / name
        process = sweep(name, study, *overrides)
        while not (metrics := [path for path in study.glob("*-s1-*/metrics.csv") if path.read_text().count("\n") > 2]):
            time.sleep(0.2)
        worker = int((metrics[0].parent / ".lock").read_text().split()[1])
        os.kill(worker, signal.SIGKILL)
        status = process.wait()
        alive = len(outcomes(study))
        again = sweep(name, study, *overrides).wait()
        equal = outcomes(study) == expected
        print(f"{name:16s}exit status {status}, {alive} of 2 runs done; again: {again}, equal to undisturbed: {equal}")
        assert again == 0 and equal, study.with_suffix(".log").read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("throughput", "kill"))
    parser.add_argument("launchers", nargs="*", help=f"of basic, {', '.join(LAUNCHERS)} (default: those installed)")
    parser.add_argument("--rounds", type=int, default=3, help="of throughput")
    args = parser.parse_args()
    if unknown := set(args.launchers) - set(installed()):
        parser.error(f"{', '.join(sorted(unknown))}: not installed or unknown; choose from {', '.join(installed())}")
    chosen = ["basic", *(name for name in args.launchers or installed() if name != "basic")]
    with tempfile.TemporaryDirectory() as folder:
        {"throughput": throughput, "kill": kill}[args.what](chosen, Path(folder), args.rounds)


if __name__ == "__main__":
    main()
