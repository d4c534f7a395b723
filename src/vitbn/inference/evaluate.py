"""What `vitbn evaluate`, `vitbn recalibrate` and `vitbn export` do, as plain functions."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from vitbn.errors import InputError
from vitbn.inference.bn_report import RUNNING, Panel, panel
from vitbn.inference.eval_data import Data, arriving, batch_of, fresh_statistics, inputs
from vitbn.inference.fold import LIMIT, Folding, Step, fold_proven, largest_difference
from vitbn.inference.metrics import score
from vitbn.models.bn_statistics import batch_norms
from vitbn.models.vit import VisionTransformer
from vitbn.store import atomic as durable
from vitbn.store import checkpoint_file as sealed
from vitbn.weights.network import Network, load_network
from vitbn.weights.runs import RECALIBRATED


def evaluate(
    ckpt: str,
    *,
    data: Data = None,
    root: Path | None = None,
    statistics: str = RUNNING,
    batch_sizes: list[int],
    out: Path | None = None,
    as_json: bool = False,
) -> None:
    """Print scores and, for BatchNorm networks, the panel of statistics, whose picture goes into `out`."""
    network = load_network(ckpt)
    has_norms = bool(batch_norms(network.net))
    if statistics != RUNNING and not has_norms:
        raise InputError(f"--statistics {statistics}: {network.source} has no BatchNorm; leave it out")
    given = arriving(network, data, root).labelled_for(network)
    found = panel(network, given.train, given.test, batch_sizes) if has_norms else None
    scores = found.compared[statistics] if found else score(network, given.test)
    if as_json:
        shown = {"checkpoint": str(network.source), "data": given.name, "statistics": statistics, **asdict(scores)}
        print(json.dumps(shown | ({"batchnorm": _plain(found)} if found else {}), indent=2))
        return
    from vitbn.inference.show import print_panel, print_scores

    console = Console()
    with_norms = f", {statistics} statistics" if has_norms else ""
    print_scores(console, f"{network.source} on {given.name}{with_norms}", scores)
    if found:
        print_panel(console, found)
        print(_draw(found, network, given.name, out or _home(network.source) / "evaluation"))


def _plain(found: Panel) -> dict[str, Any]:
    return {
        "compared": {name: scores.summary() for name, scores in found.compared.items()},
        "batch_size": found.batch_size,
        "recalibrated_on": found.recalibrated_on,
        "by_batch_size": {size: each and each.summary() for size, each in found.by_batch_size.items()},
        "beside": {name: scores.summary() for name, scores in found.beside.items()},
        "layers": [asdict(layer) for layer in found.layers],
    }


def _draw(found: Panel, network: Network, data: str, folder: Path) -> Path:
    from vitbn import plotting as canvas
    from vitbn.inference.show import picture

    with canvas.style():
        drawn = picture(found, network.config["model"]["name"], data)
        drawn.save(folder)
    return folder / f"{drawn.name}.png"


def export(
    ckpt: str,
    *,
    form: str,
    data: Data = None,
    root: Path | None = None,
    out: Path | None = None,
    fold: bool = True,
    half: bool = False,
) -> list[Path]:
    """Write the network as one file that has been run again and compared, and its card; their paths.

    `half`: its weights rounded to half precision, for half the size; what is measured is the rounded network.
    """
    from vitbn.inference.export import format_named, rounded, shareable, written_difference
    from vitbn.inference.model_card import model_card

    chosen = format_named(form, half=half)
    network = load_network(ckpt)
    home = _home(network.source)
    out = out or home / "export" / f"{home.resolve().name}{chosen.suffix}"
    if out.suffix != chosen.suffix:
        raise InputError(f"--out {out}: a file of --format {form} ends in {chosen.suffix}")
    given = arriving(network, data, root).labelled_for(network)
    network = replace(network, config=shareable(network.config))
    trained, plan, difference = network, tuple[Step, ...](), None
    if fold and isinstance(network.net, VisionTransformer):
        folding, difference = fold_proven(network.net, inputs(network, given.test, batch_of(given.test)))
        network, plan = _with(network, folding), folding.plan
    exact, moved = network, None
    if half:
        network = rounded(network)
        images = inputs(network, given.test, batch_of(given.test))
        moved = largest_difference(network.net, exact.net, images)
    content = chosen.write(network)
    written = written_difference(network, content, chosen, given.test)
    if not written <= LIMIT:
        raise InputError(f"{out}: not written, its logits differ from the network's by {written:.3g}")
    scores = score(network, given.test)
    out.parent.mkdir(parents=True, exist_ok=True)
    durable.write(out, lambda file: file.write(content))
    page = out.with_name(f"{out.name}.md")
    durable.write_text(
        page, model_card(out, trained.config, network, given.name, scores, plan, difference, written, moved)
    )
    return [out, page]


def _with(network: Network, folding: Folding) -> Network:
    """The folded network, described so that it can be built again."""
    model = {**network.config["model"], "placement": dict(folding.placement), "qkv_bias": folding.qkv_bias}
    return replace(network, net=folding.net, config={**network.config, "model": model})


def _home(checkpoint: Path) -> Path:
    """The folder a checkpoint belongs to: its run's."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def recalibrate(ckpt: str, *, data: Data = None, root: Path | None = None, out: Path | None = None) -> Path:
    """Write a copy of the checkpoint with fresh BatchNorm statistics; its path."""
    network = load_network(ckpt)
    if not batch_norms(network.net):
        raise InputError(f"{network.source}: has no BatchNorm, there is nothing to recalibrate")
    out = out or network.source.with_name("recalibrated.ckpt")
    if out.parent.resolve() == network.source.parent.resolve() and out.name in sealed.OF_TRAINING:
        raise InputError(f"--out {out}: training goes on from this file; choose another name")
    given = arriving(network, data, root)
    fresh, count = fresh_statistics(network, given.train)
    checkpoint = sealed.load(network.source)
    for norm, (mean, var) in fresh.items():
        for buffer, value in (("running_mean", mean), ("running_var", var)):
            kept = checkpoint["state_dict"][f"net.{norm}.{buffer}"]
            kept.copy_(value.reshape(kept.shape))
    for name in RECALIBRATED:
        checkpoint.get("callbacks", {}).pop(name, None)
    checkpoint["recalibrated"] = {"data": given.name, "images": count}
    sealed.save(checkpoint, out)
    return out
