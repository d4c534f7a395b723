"""`python benchmarks/bench.py infer`: networks in evaluation, from single images to large batches."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from vitbench import baselines, machine
from vitbench.flops import evaluation_work, parameter_count
from vitbench.options import Options, select
from vitbench.runner import Arm, Stopwatch, Turn, alternate, require_compiled
from vitbench.setting import Setting
from vitbn import ViT, ViTBN, ViTBNFFN, rng
from vitbn.inference.fold import fold
from vitbn.models.merged_attention import freeze_attention

BATCHES = (1, 100, 1000)
IMAGES = 3_000  # per turn, in passes of which there are at least 3 and at most 200
UNIT = {"name": "µs per image", "per": 1e6}
COMPILED = "vit-compiled"

# name: what it is, and what makes it from its size. A network that is new here is one more line.
NETWORKS: dict[str, tuple[str, Callable[[dict[str, Any]], nn.Module]]] = {
    "vit": ("ours, LayerNorm", lambda size: ViT(**size)),
    COMPILED: ("vit under torch.compile", lambda size: ViT(**size)),
    "vitbnffn": ("ours, BatchNorm in the feed-forward", lambda size: ViTBNFFN(**size)),
    "vitbn": ("ours, BatchNorm everywhere", lambda size: ViTBN(**size)),
    "vit-served": ("vit as vitbn serve and export make it", lambda size: ViT(**size)),
    "vitbnffn-served": ("vitbnffn as they make it: BatchNorms folded", lambda size: ViTBNFFN(**size)),
    "vitbn-served": ("vitbn as they make it: BatchNorms folded", lambda size: ViTBN(**size)),
    "vit-pytorch": ("vit-pytorch's ViT", baselines.vit_pytorch),
    "timm": ("timm's ViT with heads as wide as ours", baselines.timm),
    "timm-own-heads": ("timm's ViT with its own narrow heads", lambda size: baselines.timm(size, wide_heads=False)),
}


def measure(options: Options, device: torch.device) -> dict[str, Any]:
    """One table per batch size."""
    setting = Setting(options, device)
    names = select([name for name in NETWORKS if name != COMPILED or options.compile], options)
    nets = {name: NETWORKS[name][1](setting.size).to(device).eval() for name in names}
    peak, tables = machine.peak(device), []
    for batch in BATCHES:
        arms = [_arm(setting, name, net, batch) for name, net in nets.items()]
        summaries = alternate(arms, options.rounds, setting.new_watch)
        tables.append({"title": f"Evaluation at batch {batch}", "unit": UNIT, "arms": summaries})
    return {"conditions": {"depth": options.depth}, "peak": peak, "tables": tables}


def _arm(setting: Setting, name: str, net: nn.Module, batch: int) -> Arm:
    shape = setting.shape(batch)
    images = torch.rand(shape, generator=rng.generator("bench", batch)).to(setting.device)
    passes = min(200, max(3, (setting.options.images or IMAGES) // batch))
    if name.endswith("-served"):
        net = freeze_attention(fold(net).net, images)
    work = {key: value / batch for key, value in evaluation_work(net, shape).items()}
    run = torch.compile(net) if name == COMPILED else net

    @torch.inference_mode()
    def turn(number: int, watch: Stopwatch) -> Turn:
        with watch:
            for _ in range(passes):
                run(images)
        return Turn(units=passes * batch)

    with require_compiled(name) if name == COMPILED else nullcontext():
        turn(0, setting.new_watch())
    return Arm(name, NETWORKS[name][0], turn, parameter_count(net), work)
