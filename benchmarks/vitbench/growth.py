"""`bench.py growth`: how the time of an epoch grows, beside the arithmetic and what the machine could do."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from vitbench import machine
from vitbench.flops import parameter_count, training_work
from vitbench.options import Options
from vitbench.ours import compose_run
from vitbench.runner import Arm, Stopwatch, Turn, alternate
from vitbench.setting import Setting
from vitbench.table import limits
from vitbn import rng
from vitbn.data.affine import draw
from vitbn.data.batches import TrainBatches
from vitbn.data.splits import Split
from vitbn.models.factory import build, make_optimizer
from vitbn.plotting import Picture, grid, legend_above, look, style
from vitbn.training.module import Classifier
from vitbn.training.numerics import float32_arithmetic

UNIT = {"name": "s per epoch", "per": 1.0}
EPOCH = 60_000
STEPS = 10  # of a measured epoch
EPOCHS = 3  # of a turn; the first warms up
# What grows, its key for train.py and the values of that; a patch of p pixels gives (28 / p)² + 1 tokens.
AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "depth": ("depth", (1, 2, 4, 6, 8, 12)),
    "batch size": ("batch_size", (10, 25, 50, 100, 250, 500, 1000)),
    "image size": ("data.image_size", (14, 28, 56, 84)),
    "tokens": ("model.patch_size", (14, 7, 4, 2)),
}
QUICK = 2  # values of each axis


def measure(options: Options, device: torch.device) -> dict[str, Any]:
    """One table per axis, everything else at the article's size; no validation, logging or checkpoints."""
    setting = Setting(options, device)
    conditions, peak, tables = setting.conditions(), machine.peak(device), []
    for axis, (key, values) in AXES.items():
        arms = [_arm(setting, axis, key, value) for value in (values[:QUICK] if options.quick else values)]
        summaries = alternate(arms, options.rounds, setting.new_watch)
        tables.append({"title": f"Growth with {axis}", "varied": axis, "unit": UNIT, "arms": summaries})
    return {"conditions": conditions, "peak": peak, "tables": tables}


def _arm(setting: Setting, axis: str, key: str, value: int) -> Arm:
    cfg = compose_run((*setting.overrides, f"{key}={value}")).config
    model, batch_size = cfg["model"], cfg["batch_size"]
    shape = (batch_size, model["channels"], model["image_size"], model["image_size"])
    images = random_images(STEPS * batch_size, shape[1:], model["num_classes"])
    net = build(model, seed=0)
    work = {name: amount * EPOCH / batch_size for name, amount in training_work(net, shape).items()}
    position = (model["image_size"] // model["patch_size"]) ** 2 + 1 if axis == "tokens" else value
    return Arm(str(position), "", partial(_turn, cfg, images, setting.device), parameter_count(net), work)


def _turn(cfg: dict[str, Any], images: Split, device: torch.device, number: int, watch: Stopwatch) -> Turn:
    """The project's module and batches under a bare Trainer."""
    module = Classifier(
        build(cfg["model"], seed=number),
        num_classes=cfg["model"]["num_classes"],
        make_optimizer=make_optimizer(cfg["optimizer"], cfg["lr"]),
        seed=number,
    )
    batches = TrainBatches(images, batch_size=cfg["batch_size"], seed=number, draw=draw, device=device)
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu", devices=1, precision=cfg["trainer"]["precision"],
        max_epochs=EPOCHS, callbacks=[EpochTimer(watch)], use_distributed_sampler=False,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with float32_arithmetic(cfg["matmul_precision"]):
        trainer.fit(module, batches)
    return Turn(units=(EPOCHS - 1) * len(images) / EPOCH)


class EpochTimer(pl.Callback):
    """Times from the end of the first epoch to the end of the last."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 0:
            self.watch.__enter__()
        elif trainer.current_epoch == EPOCHS - 1:
            self.watch.__exit__()


def random_images(count: int, shape: tuple[int, ...], classes: int) -> Split:
    """Time does not depend on what images show."""
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=rng.generator("bench", count))
    return Split(images, torch.arange(count) % classes)


def draw_growth(result: dict[str, Any], folder: Path, name: str = "growth") -> Path:
    """Write <name>.png and .svg from the result of `python benchmarks/bench.py growth`; the path of the svg."""
    with style():
        figure, axes = grid(len(result["tables"]), columns=2, height=3.1)
        for axis, table in zip(axes, result["tables"], strict=True):
            _draw_panel(axis, table, limits(result)["flop"])
        legend_above(figure, axes)
        alt = "Time of an epoch against depth, batch size, image size and tokens."
        Picture(name, "Growth", "", alt, figure).save(folder)
    return folder / f"{name}.svg"


def _draw_panel(axis: Any, table: dict[str, Any], limit: float) -> None:
    """Measured times, the growth of the arithmetic alone, and the least time the machine could take."""
    from matplotlib.ticker import LogLocator

    arms = table["arms"]
    positions = [int(arm["name"]) for arm in arms]
    median, least, most = (np.array([arm["seconds"][key] for arm in arms]) for key in ("median", "min", "max"))
    arithmetic = np.array([arm["work"]["flop"] for arm in arms])
    possible = arithmetic / limit
    axis.errorbar(
        positions, median, [median - least, most - median], capsize=2, label=f"measured (n = {arms[0]['n']})", **look(0)
    )
    scaled = median[-1] * arithmetic / arithmetic[-1]
    axis.plot(positions, scaled, label="growth of the arithmetic alone", **{**look(1), "marker": ""})
    axis.plot(positions, possible, label="physical limit", **look(2))
    axis.set(xscale="log", yscale="log", xlabel=table["varied"], ylabel="seconds per epoch")
    axis.fill_between(positions, possible, 0.5 * possible.min(), color="#eeeeee", linewidth=0)
    axis.set_xticks(positions, [str(position) for position in positions])
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
