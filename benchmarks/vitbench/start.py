"""`python benchmarks/bench.py start`: seconds from Enter, each in a process of its own, files in the system's cache."""

import os
import resource
import subprocess
import sys
import tempfile
from functools import partial
from typing import Any

import torch

from vitbench.options import Options, select
from vitbench.ours import ROOT
from vitbench.runner import Arm, Stopwatch, Turn, alternate
from vitbench.setting import Setting
from vitbn.errors import InputError

UNIT = {"name": "s", "per": 1.0}
STEPPED = 7  # exit status of a process that ends right after its first optimizer step
UP_TO_FIRST_STEP = f"""
import os, runpy, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(lambda *_: os._exit({STEPPED}))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def measure(options: Options, device: torch.device) -> dict[str, Any]:
    """One table; the first launch of each is not counted."""
    setting = Setting(options, device)
    python, train = sys.executable, str(ROOT / "train.py")
    commands = {
        "help": ([python, train, "--help"], 0, "python train.py --help"),
        "wrong-value": ([python, train, "depth=0"], 2, "python train.py depth=0, up to the end of its one-line error"),
        "first-step": (
            [python, "-c", UP_TO_FIRST_STEP, train, *setting.overrides], STEPPED,
            f"python train.py {' '.join(setting.overrides)}, up to the end of the first optimizer step",
        ),
    }  # fmt: skip
    if options.compile:
        compiled = [*commands["first-step"][0], "compile=true"]
        commands["compiled"] = (compiled, STEPPED, "first-step with compile=true, without code from earlier runs")
        commands["compiled-again"] = (compiled, STEPPED, "first-step with compile=true, with that code")
    with tempfile.TemporaryDirectory() as cache:
        arms = []
        for name in select(list(commands), options):
            command, status, what = commands[name]
            launch = partial(_launch, command, status, cache if name == "compiled-again" else None)
            launch(0, setting.new_watch())
            arms.append(Arm(name, what, launch))
        table = {"title": "Start-up", "unit": UNIT, "arms": alternate(arms, options.rounds, setting.new_watch)}
    return {"conditions": setting.conditions(), "tables": [table]}


def _launch(command: list[str], status: int, cache: str | None, number: int, watch: Stopwatch) -> Turn:
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
            "TORCHINDUCTOR_CACHE_DIR": cache or f"{folder}/code",
        }
        arguments = [*command, f"runs={folder}"] if status == STEPPED else command
        before = _cpu_seconds()
        with watch:
            done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != status:
        typed = " ".join(part for part in command if part not in (sys.executable, "-c", UP_TO_FIRST_STEP))
        last = (done.stderr or done.stdout).strip().rpartition("\n")[-1]
        raise InputError(f"{typed}: exit status {done.returncode} instead of {status}: {last}")
    return Turn(figures={"CPU s": _cpu_seconds() - before})


def _cpu_seconds() -> float:
    """Of all processes launched so far: steadier than the clock on a machine that does other things too."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
