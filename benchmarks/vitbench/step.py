"""`python benchmarks/bench.py step`: a training step alone, images at hand, in each precision, compiled or not."""

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from vitbench import machine
from vitbench.flops import parameter_count, training_work
from vitbench.infer import NETWORKS
from vitbench.options import Options, select
from vitbench.runner import Arm, Stopwatch, Turn, alternate, require_compiled
from vitbench.setting import Setting
from vitbn import rng
from vitbn.training.compiling import compile_blocks
from vitbn.training.numerics import float32_arithmetic, keep_memory

STEPS = 10  # per turn
UNIT = {"name": "ms per step", "per": 1e3}
TRAINED = ("vit", "vitbnffn", "vitbn", "vit-pytorch", "timm")
WAYS = {
    "": "",
    "bf16": "trainer.precision=bf16-mixed",
    "compiled": "compile=true",
    "bf16-compiled": "trainer.precision=bf16-mixed compile=true",
}


def measure(options: Options, device: torch.device) -> dict[str, Any]:
    """One table; every arm steps on the same images with Adam, as in train.py."""
    setting = Setting(options, device)
    images = torch.rand(setting.shape(options.batch_size), generator=rng.generator("bench", "step")).to(device)
    labels = torch.arange(len(images), device=device) % setting.size["num_classes"]
    ways = [way for way in WAYS if options.compile or "compiled" not in way]
    contestants = {f"{network}-{way}".rstrip("-"): (network, way) for network in TRAINED for way in ways}
    keep_memory()
    torch.compiler.reset()
    with float32_arithmetic("highest"):
        arms = [_arm(setting, name, *contestants[name], images, labels) for name in select(contestants, options)]
        summaries = alternate(arms, options.rounds, setting.new_watch)
    table = {"title": "A training step", "unit": UNIT, "arms": summaries}
    return {"conditions": setting.conditions(), "peak": machine.peak(device), "tables": [table]}


def _arm(setting: Setting, name: str, network: str, way: str, images: torch.Tensor, labels: torch.Tensor) -> Arm:
    """A network trained in one of the ways, after steps that are not counted."""
    what, make = NETWORKS[network]
    torch.manual_seed(0)
    net = make(setting.size).to(setting.device).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    if way.endswith("compiled"):
        compile_blocks(net, anew=False)
    autocast = partial(torch.autocast, setting.device.type, torch.bfloat16, enabled=way.startswith("bf16"))

    def turn(number: int, watch: Stopwatch) -> Turn:
        with watch:
            for _ in range(STEPS):
                with autocast():
                    logits = net(images)
                F.cross_entropy(logits.float(), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
        return Turn(units=STEPS)

    print(f"warming up {name}", flush=True)
    with require_compiled(name) if way.endswith("compiled") else nullcontext():
        turn(0, setting.new_watch())
    work = training_work(make(setting.size), images.shape)
    return Arm(name, ", ".join(part for part in (what, WAYS[way]) if part), turn, parameter_count(net), work)
