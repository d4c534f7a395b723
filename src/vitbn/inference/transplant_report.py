"""`vitbn transplant`: from a network with LayerNorms to tables and pictures of the damage and weights to fine-tune."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vitbn.errors import InputError
from vitbn.inference.eval_data import Data, load_eval_data
from vitbn.inference.transplant import Damage, Place, Step, Transplant, layernorm_places
from vitbn.models.placements import Slot
from vitbn.models.sites import has_sites
from vitbn.models.vit import VisionTransformer
from vitbn.plotting import Picture, grid, look, plain_numbers, style
from vitbn.store import atomic
from vitbn.terminal import in_quotes
from vitbn.weights.files import Weights, described_network, write
from vitbn.weights.network import Network, load_network
from vitbn.weights.pretrained import ADAPTED, model_overrides

FILE = "transplanted.safetensors"
LEAST = 1e-6  # nats; the colours' logarithmic scale needs an end


def transplant_command(ckpt: str, *, data: Data, root: Path | None, count: int, slots: Sequence[str], out: Path) -> int:
    """Transplant, write everything into `out`, and say what fine-tunes from it."""
    if count < 2:
        raise InputError(f"--images {count}: must be at least 2")
    network = load_network(ckpt)
    if not has_sites(network.net):
        raise InputError(f"{network.source}: {network.config['model']['name']} is no Vision Transformer that is known")
    places = _choose_places(network, slots)
    images = load_eval_data(network, data, root, count=count)
    network.net.to("cuda" if torch.cuda.is_available() else "cpu")
    truth = images.test.labels if images.classes == network.labels else None
    transplant = Transplant(
        network.net, places, images.train.images, images.test.images, truth, prepare=network.normalise
    )
    counts = f"{len(images.train)} images calibrate, {len(images.test)} measure"
    print(f"{network.source}: {len(places)} norms; {counts}")
    alone = transplant.alone()
    order = transplant.in_greedy_order(lambda step: print(f"  {step.place}: {step.damage.kl:.4f} nats", flush=True))
    write_transplant_report(out, transplant.original, alone, order)
    print_tables(transplant.original, alone, order)
    replaced = {str(place.slot): "batch" for place in places}
    architecture, options = described_network(network.config)
    own = network.net.placement if isinstance(network.net, VisionTransformer) else options["placement"]
    options["placement"] = {**own, **replaced}
    state = {name: tensor.cpu() for name, tensor in network.net.state_dict().items()}
    config = {"model": {**network.config["model"], "placement": options["placement"]}} if "library" in options else {}
    write(Weights(state, options, network.labels, network.mean, network.std, out / FILE, config, architecture))
    overrides = [override for key, override in model_overrides(options).items() if key not in ADAPTED]
    overrides += map(shlex.quote, _data_overrides(network, data))
    print(f"{out}: {FILE}, damage.csv, order.csv, transplant-damage and transplant-order as PNG and SVG")
    print(f"fine-tune: vitbn train {' '.join(overrides)} model.pretrained={shlex.quote(str(out / FILE))}")
    return 0


def _data_overrides(network: Network, data: Data) -> list[str]:
    """The overrides of `vitbn train` that ask for these images as the network has seen them."""
    options = {"source": "folder", "root": data} if isinstance(data, Path) else (data or network.config)["data"]
    source = options.get("source")
    overrides = [f"data={source or options['name']}"]
    overrides += [f"data.root={_typed(str(options.get('root', 'DIR')))}"] if source == "folder" else []
    overrides += [f"data.image_size={network.image_size}", f"data.channels={network.channels}"] if source else []
    for key, values in (("mean", network.mean), ("std", network.std)):
        overrides.append(f"data.{key}={list(values) if len(values) > 1 else values[0]}".replace(" ", ""))
    return overrides


def _typed(value: str) -> str:
    return value if re.fullmatch(r"[\w./+-]+", value) else in_quotes(value)


def _choose_places(network: Network, slots: Sequence[str]) -> list[Place]:
    """The places of the LayerNorms, in some slots or in all."""
    if unknown := [slot for slot in slots if slot not in set(Slot)]:
        raise InputError(f"--slots {unknown[0]}: unknown; choose from {', '.join(Slot)}")
    places = layernorm_places(network.net)
    if not places:
        raise InputError(f"{network.source}: has no LayerNorm to replace")
    present = [str(slot) for slot in Slot if any(place.slot == slot for place in places)]
    if empty := [slot for slot in slots if slot not in present]:
        raise InputError(f"--slots {empty[0]}: no LayerNorm there; choose from {', '.join(present)}")
    return [place for place in places if not slots or place.slot in slots]


def write_transplant_report(
    folder: Path, original: Damage, alone: Mapping[Place, Damage], order: Sequence[Step]
) -> None:
    """damage.csv, order.csv and both pictures as PNG and SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_row(place, damage) for place, damage in alone.items()]
    atomic.write_csv(folder / "damage.csv", rows[0], rows)
    steps = [{"step": n, **_row(step.place, step.damage)} for n, step in enumerate(order, start=1)]
    unchanged = {"step": 0, "slot": None, "layer": None, **vars(original)}
    atomic.write_csv(folder / "order.csv", unchanged, [unchanged, *steps])
    with style():
        for picture in (heat_map(original, alone), greedy_order(original, order)):
            picture.save(folder)


def _row(place: Place, damage: Damage) -> dict[str, Any]:
    return {"slot": str(place.slot), "layer": None if place.layer is None else place.layer + 1, **vars(damage)}


def heat_map(original: Damage, alone: Mapping[Place, Damage]) -> Picture:
    """Rows slots, columns layers: the damage if only that norm is replaced; grey where no norm stands."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm

    slots = [slot for slot in Slot if any(place.slot == slot for place in alone)]
    depth = max((place.layer + 1 for place in alone if place.layer is not None), default=0)
    table = np.full((len(slots), depth + 2), np.nan)
    for place, damage in alone.items():
        table[slots.index(place.slot), _column(place, depth)] = max(damage.kl, LEAST)
    figure, (ax,) = grid(1, 1, width=max(6.4, 0.8 * (depth + 2) + 3), height=0.5 * len(slots) + 1.3)
    scale = LogNorm(LEAST if np.nanmax(table) <= LEAST else np.nanmin(table), max(np.nanmax(table), 2 * LEAST))
    blues = ListedColormap(colormaps["Blues"](np.linspace(0.12, 1, 256)))  # the palest is no white
    image = ax.imshow(np.ma.masked_invalid(table), cmap=blues, norm=scale, aspect="auto")
    ax.set(xlabel="encoder block", xticks=range(depth + 2), yticks=range(len(slots)), facecolor="#eeeeee")
    ax.set_xticklabels(["before", *range(1, depth + 1), "after"])
    ax.set_yticklabels(slots)
    ax.grid(False)
    ax.set_xticks(np.arange(depth + 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(len(slots) - 1) + 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=2)
    ax.tick_params(which="both", length=0)
    ax.set_axisbelow(False)
    for place, damage in alone.items():
        row, column = slots.index(place.slot), _column(place, depth)
        dark = scale(table[row, column]) > 0.5
        ax.text(column, row, _change(original, damage), ha="center", va="center", color="white" if dark else "black")
    figure.colorbar(image, ax=ax, label="divergence (nats)", shrink=0.9, format="%g")
    numbers = "change of accuracy in points" if original.accuracy is not None else "changed predictions (%)"
    title = "Damage of replacing one LayerNorm by BatchNorm"
    caption = f"Colour: divergence from the original's predictions; number: {numbers}. Calibrated, not trained."
    changes = ", ".join(f"{place} {_change(original, damage)}" for place, damage in alone.items())
    ax.set_title(f"Number: {numbers}", fontsize="medium", fontweight="normal")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return Picture("transplant-damage", title, caption, f"Heat map over slots and layers. {changes}.", figure)


def _column(place: Place, depth: int) -> int:
    if place.layer is not None:
        return place.layer + 1
    return depth + 1 if place.slot == Slot.final else 0


def _change(original: Damage, damage: Damage) -> str:
    """In percent: of the accuracy if it is known, else of the predictions."""
    if damage.accuracy is None or original.accuracy is None:
        return f"{100 * damage.changed:.1f}"
    return f"{100 * (damage.accuracy - original.accuracy):+.1f}".replace("-", "−")


def greedy_order(original: Damage, order: Sequence[Step]) -> Picture:
    """Accuracy (or unchanged predictions) and divergence after each replacement of the greedy order."""
    figure, (above, below) = grid(2, 1, height=2.3, width=max(6.4, 0.5 * len(order) + 3), sharex=True)
    damages = [original, *(step.damage for step in order)]
    has_truth = original.accuracy is not None
    shares = [100 * (d.accuracy if d.accuracy is not None else 1 - d.changed) for d in damages]
    above.plot(shares, **look(0))
    above.set_ylabel("accuracy (%)" if has_truth else "unchanged (%)")
    below.plot([d.kl if d.kl > 0 else math.nan for d in damages], **look(1))  # before the first, there is none
    below.set_yscale("log")
    plain_numbers(below.yaxis)
    below.set(ylabel="divergence (nats)", xlabel="replaced, in this order", xticks=range(len(damages)))
    below.set_xticklabels(["none", *(str(step.place) for step in order)], rotation=45, ha="right")
    title = "Replacing one norm after the other, the least damaging next"
    above.set_title(title)
    values = ", ".join(f"{step.place} {share:.1f}" for step, share in zip(order, shares[1:], strict=True))
    caption = "After each replacement all BatchNorms so far are calibrated anew, in the order the data passes them."
    return Picture("transplant-order", title, caption, f"Lines falling from {shares[0]:.1f} %: {values}.", figure)


def print_tables(original: Damage, alone: Mapping[Place, Damage], order: Sequence[Step]) -> None:
    """The heat map's numbers and the order, in the terminal."""
    from rich.console import Console
    from rich.table import Table

    alone_table = Table(title="damage of one replacement", title_justify="left")
    order_table = Table(title="all replacements, the least damaging next", title_justify="left")
    rows = [(str(place), damage) for place, damage in alone.items()]
    steps = [("none", original), *((str(step.place), step.damage) for step in order)]
    for table, content in ((alone_table, rows), (order_table, steps)):
        for column in ("norm", "divergence (nats)", "changed predictions", "accuracy"):
            table.add_column(column, justify="left" if column == "norm" else "right")
        for name, damage in content:
            accuracy = "–" if damage.accuracy is None else f"{damage.accuracy:.2%}"
            kl = f"{damage.kl:.4f}" if math.isfinite(damage.kl) else "not finite"
            table.add_row(name, kl, f"{damage.changed:.2%}", accuracy)
        Console().print(table)
