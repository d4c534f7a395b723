"""What happens to a study when things go wrong, tried for real; docs/reliability.md holds the figures.

python benchmarks/reliability.py                  # everything, about 15 minutes on two cores; needs no network
python benchmarks/reliability.py kills --n 20     # one part: kills, damage, disk, launches, endings, signals

Every part trains small networks on data=mnist5k in a temporary folder, compares with undisturbed runs and prints
one line; the exit status is 1 if any part misses what it promises.
"""

import argparse
import csv
import errno
import io
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra import compose, initialize_config_dir

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from vitbn.config import compose as config  # noqa: E402
from vitbn.store import atomic, checkpoint_file  # noqa: E402
from vitbn.store.lock import locked  # noqa: E402
from vitbn.store.run import Run  # noqa: E402
from vitbn.training.outcome import attempt  # noqa: E402
from vitbn.training.train import train  # noqa: E402

SMALL = ["data=mnist5k", "trainer=cpu", "depth=1", "epochs=2", "batch_size=200", "checkpoint.every_minutes=1e-9"]
FORK = multiprocessing.get_context("fork")


def make_run(folder: Path, *overrides: str) -> Run:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return Run(config.to_plain_dict(compose("config", overrides=[*SMALL, f"runs={folder}", *overrides])))


def job(run: Run) -> None:
    """What train.py does with one run, in a process of its own; its output goes nowhere."""
    torch.set_num_threads(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    with locked(run.folder) as mine:
        if mine:
            attempt(run, train)


def start(run: Run) -> Any:
    process = FORK.Process(target=job, args=(run,))
    process.start()
    return process


def finish(run: Run) -> None:
    start(run).join()


def outcome(run: Run) -> tuple[Any, ...]:
    """All that must not depend on what happened on the way: rows, result, weights, optimizer state."""
    rows = [{**row, "seconds": None} for row in csv.DictReader((run.folder / "metrics.csv").open())]
    result = {**json.loads((run.folder / "result.json").read_text()), "seconds": None}
    ckpt = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    tensors = [*ckpt["state_dict"].values()]
    for moments in ckpt["optimizer_states"][0]["state"].values():
        tensors += list(moments.values())
    return rows, result, ckpt["global_step"], [tensor.numpy().tobytes() for tensor in tensors]


def kills(folder: Path, n: int) -> str:
    """kill -9 at random moments after training began, some of them while a checkpoint is written."""
    reference = make_run(folder, "study=reference")
    finish(reference)
    began = time.perf_counter()
    finish(make_run(folder, "study=warm"))
    whole = time.perf_counter() - began
    rng, killed, saving, runs, equal = random.Random(0), 0, 0, 0, 0
    while killed < n:
        run, runs = make_run(folder, f"study=killed{runs}"), runs + 1
        for _ in range(min(5, n - killed)):
            process = start(run)
            process.join(rng.uniform(0.1, 0.9) * whole)
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                killed += 1
                saving += any(run.folder.rglob(atomic.TEMPORARY))
        finish(run)
        equal += outcome(run) == outcome(reference)
    assert equal == runs, f"only {equal} of {runs} runs ended as the undisturbed one"
    return f"{killed} kills over {runs} runs, {saving} while a file was being written: {equal} of {runs} runs equal"


def damage(folder: Path, n: int) -> str:
    """Bits flipped and files cut at n offsets each."""
    run = make_run(folder, "epochs=1")
    finish(run)
    path = run.checkpoints / "last.ckpt"
    good, detected = path.read_bytes(), 0
    for i in range(n):
        offset = i * (len(good) - 1) // max(1, n - 1)
        flipped = bytearray(good)
        flipped[offset] ^= 1 << (i % 8)
        for content in (bytes(flipped), good[:offset]):
            path.write_bytes(content)
            detected += checkpoint_file.latest_valid_checkpoint(run.checkpoints) == path.with_name("previous.ckpt")
    assert detected == 2 * n, f"{detected} of {2 * n} detected"
    return f"{n} bits flipped and {n} files cut: {detected} of {2 * n} detected, previous checkpoint used"


def disk(folder: Path, n: int) -> str:
    """A tmpfs filled to the brim just before the n-th write of each kind; needs the right to mount."""
    mount = folder / "disk"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(mount)], capture_output=True).returncode:
        return "skipped: this user may not mount a tmpfs"
    try:
        reference = make_run(folder, "study=reference")
        finish(reference)
        kinds = ["config.yaml", "metrics.csv", "last.ckpt", "best.ckpt", "result.json"]
        for name in kinds:
            run = make_run(mount, f"study={name}")
            messages = FORK.Queue()
            process = FORK.Process(target=fill_before, args=(run, mount / "ballast", name, messages))
            process.start()
            message = messages.get()
            process.join()
            assert "disk full" in message, f"{name}: {message!r}"
            (mount / "ballast").unlink()
            if name not in ("config.yaml", "result.json"):
                assert checkpoint_file.latest_valid_checkpoint(run.checkpoints), f"{name}: no checkpoint left"
            finish(run)
            assert outcome(run) == outcome(reference), name
            shutil.rmtree(run.study)
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    return f"full before {', '.join(kinds)}: message says so, state before loads, the same command ends as undisturbed"


def fill_before(run: Run, ballast: Path, name: str, queue: Any) -> None:
    """Train with a disk that is full from the second write of `name` on (the first, if there is only one)."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("vitbn").addHandler(handler)
    logging.getLogger("vitbn").setLevel(logging.WARNING)
    write, written = atomic.write, []

    def write_on_full_disk(path: Path, fill: Callable[..., object]) -> None:
        written.append(path.name)
        if path.name == name and written.count(name) == (2 if name in ("metrics.csv", "last.ckpt") else 1):
            with open(ballast, "wb") as file:
                try:
                    while True:
                        file.write(b"\0" * 4096)
                        file.flush()
                except OSError as error:
                    assert error.errno == errno.ENOSPC
        write(path, fill)

    atomic.write = write_on_full_disk
    job(run)
    queue.put("\n".join(messages))


def launch(*overrides: str) -> "subprocess.Popen[str]":
    """The real command, one thread, its output captured."""
    command = [sys.executable, str(ROOT / "train.py"), *overrides]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)


def outcomes(study: Path) -> dict[str, Any]:
    """The outcome of every finished run of a study, by its name."""
    folders = [path.parent for path in study.glob("*/result.json")]
    return {path.name: outcome(Run(yaml.safe_load((path / "config.yaml").read_text()))) for path in folders}


def launches(folder: Path, n: int) -> str:
    """Four launches of one sweep of eight runs at once, n times."""
    sweep = ["-m", *SMALL[:-1], "epochs=1", "logger=none", "model=vit,vitbnffn", "lr=0.001,0.003", "seed=0,1"]
    launch(*sweep, f"runs={folder}", "study=alone").communicate()
    expected = outcomes(folder / "alone")
    assert len(expected) == 8, f"{len(expected)} runs"
    once = 0
    for repeat in range(n):
        study = folder / f"together{repeat}"
        processes = [launch(*sweep, f"runs={folder}", f"study={study.name}") for _ in range(4)]
        lines = "\n".join(process.communicate()[0] for process in processes).splitlines()
        trained = {name: sum(line.endswith(f": {study / name}") for line in lines) for name in expected}
        once += set(trained.values()) == {1} and outcomes(study) == expected
    assert once == n, f"{once} of {n} times"
    return (
        f"{n} times 4 launches of one 8-run study: each run trained exactly once, as if launched alone, {once} of {n}"
    )


class Code:
    """Unpickling this would run a command."""

    def __reduce__(self) -> Any:
        return os.system, ("echo this must not run",)


def endings(folder: Path, n: int) -> str:
    """Ten runs, one of which fails (it finds a checkpoint that holds code) and one diverges (a huge learning rate)."""
    fixed = [*SMALL[:-1], "epochs=1", "logger=none"]
    rates = [f"{i / 1000:g}" for i in range(1, 10)] + ["1e38"]
    bad = make_run(folder, *fixed, "study=endings", "lr=0.005")
    bad.checkpoints.mkdir(parents=True)
    archive = io.BytesIO()
    torch.save(Code(), archive)
    (bad.checkpoints / "last.ckpt").write_bytes(checkpoint_file.add_checksum(archive.getvalue()))
    process = launch("-m", *fixed, f"lr={','.join(rates)}", f"runs={folder}", "study=endings")
    output = process.communicate()[0]
    statuses = [json.loads(path.read_text())["status"] for path in (folder / "endings").glob("*/result.json")]
    counts = {status: statuses.count(status) for status in ("done", "failed", "diverged")}
    assert counts == {"done": 8, "failed": 1, "diverged": 1}, counts
    assert process.returncode == 1 and "this must not run\n" not in output
    assert f"failed: {bad.folder}" in output and "diverged" in output
    return f"{counts}, exit status {process.returncode}, the table and a last line name the failed one"


def signals(folder: Path, n: int) -> str:
    """SIGTERM and SIGINT to the real command in its second epoch: exit status and seconds to the end."""
    seconds = {signal.SIGTERM: [], signal.SIGINT: []}
    for repeat in range(n):
        for number, measured in seconds.items():
            study = f"study={number.name}{repeat}"
            process = launch(*SMALL[:-1], "depth=4", "epochs=50", f"runs={folder}", study)
            assert process.stdout is not None
            while not process.stdout.readline().startswith("epoch 1/"):
                pass
            began = time.perf_counter()
            process.send_signal(number)
            rest = process.communicate()[0]
            measured.append(time.perf_counter() - began)
            assert process.returncode == 128 + number and "the same command goes on from there" in rest, rest
    slowest = max(max(measured) for measured in seconds.values())
    assert slowest < 5, f"{slowest:.1f} s"
    return f"exit status 143 and 130, checkpoint written and process gone after at most {slowest:.1f} s (n={2 * n})"


PARTS: dict[str, tuple[Callable[[Path, int], str], int]] = {
    "kills": (kills, 100), "damage": (damage, 100), "disk": (disk, 1), "launches": (launches, 10),
    "endings": (endings, 1), "signals": (signals, 3),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--n", type=int, help="repetitions of each part instead of its own number")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    logging.getLogger("vitbn").setLevel(logging.ERROR)
    missed = 0
    for name in args.parts or PARTS:
        part, n = PARTS[name]
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(f"{name:9} {part(Path(folder), args.n or n)}", flush=True)
            except AssertionError as error:
                missed += 1
                print(f"{name:9} MISSED: {error}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
