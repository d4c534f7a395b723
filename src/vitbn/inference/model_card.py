"""The page beside an exported file: what it is, how good it is, how to use it."""

import platform
import re
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import vitbn
from vitbn.inference.fold import FoldStep
from vitbn.inference.metrics import Scores
from vitbn.weights.network import Network

SETTINGS = ("epochs", "batch_size", "lr", "seed", "pool", "pos_emb", "recalibrate_bn")
BARE = ("pool", "pos_emb")  # only for networks that have them
PACKAGES = ("torch", "torchvision", "safetensors", "onnx", "onnxruntime")

INPUT = {
    ".safetensors": "read by `vitbn.weights.network.load_network`, whose `normalise` makes the input of uint8 images",
    ".onnx": "input `images`, output `logits`; (pixel − mean) / std is done inside; facts in `metadata_props`",
    ".pt2": "`torch.export.load(file).module()(images)`; (pixel − mean) / std is done inside; facts in `vitbn.json`",
}


def model_card(
    file: Path,
    trained: dict[str, Any],
    network: Network,
    data: str,
    scores: Scores,
    plan: tuple[FoldStep, ...],
    folding_difference: float | None,
    file_difference: float,
    rounding_difference: float | None = None,
    *,
    runtime: str = "",
) -> str:
    """The card as Markdown; `trained` is the configuration before folding, `runtime` what the file needs."""
    parts = [
        f"# {_escaped(file.name)}",
        _training(trained, network),
        _quality(data, scores, "images" if trained.get("data", {}).get("source") else "test images"),
        _use(file, network, runtime),
        _folding(plan, folding_difference, scores.n),
        f"This file was run again and compared: no logit differs from the network's by more than "
        f"{file_difference:.2g} over the same {scores.n:,} images.",
        *([] if rounding_difference is None else [_rounding(rounding_difference)]),
        _versions(),
    ]
    return "\n\n".join(parts) + "\n"


def _training(config: dict[str, Any], network: Network) -> str:
    model, data = config["model"], config.get("data", {})
    size = {key: value for key, value in model.items() if key not in ("name", "_target_", "placement", "published")}
    groups = {group: config.get(group) or {} for group in ("optimizer", "schedule")}
    named = {
        group: str(options.get("_target_", options.get("name", ""))).rpartition(".")[2]
        for group, options in groups.items()
    }
    decay = groups["optimizer"].get("weight_decay")
    settings = {
        **{key: config[key] for key in SETTINGS if key in config and (key not in BARE or key in model)},
        **{group: name for group, name in named.items() if name},
        **({} if decay is None else {"weight_decay": decay}),
        **({"holdout": data["holdout"]} if data.get("holdout") else {}),
    }
    rows = {
        "network": model["name"],
        "norms as trained": _norms(model.get("placement"), network),
        "size": ", ".join(f"{key} {value}" for key, value in size.items()),
        "trained on": f"{data.get('name', '?')}, augmented: {data.get('augment', '?')}",
        "settings": ", ".join(f"{key}={value}" for key, value in settings.items()),
    }
    return "## Training\n\n" + _table(rows)


def _norms(placement: dict[str, str] | None, network: Network) -> str:
    """By slot, or counted in a network without slots."""
    if placement is not None and None in placement.values():  # of another library
        if typed := [f"{slot}: {kind}" for slot, kind in placement.items() if kind is not None]:
            return f"{', '.join(typed)}; elsewhere those of the library"
    elif placement is not None:
        return ", ".join(f"{slot}: {kind}" for slot, kind in placement.items() if kind != "none") or "none"
    kinds = Counter(type(module).__name__ for module in network.net.modules() if "Norm" in type(module).__name__)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none"


def _quality(data: str, scores: Scores, kind: str) -> str:
    rows = {
        "accuracy": f"{scores.accuracy:.2%}",
        "cross-entropy": f"{scores.loss:.4f}",
        "calibration error": f"{scores.calibration_error:.4f}",
    }
    heading = f"## Quality\n\nOn {scores.n:,} clean {kind} of {_escaped(data)} (n = {scores.n}):\n\n"
    classes = "\n".join(
        f"| {_escaped(row.label)} | {row.images} | {'–' if row.recall is None else f'{row.recall:.2%}'} |"
        for row in scores.classes
    )
    return f"{heading}{_table(rows)}\n\n| class | images | recognised |\n|---|---|---|\n{classes}"


def _use(file: Path, network: Network, runtime: str) -> str:
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (network.mean, network.std))
    rows = {
        "input": f"float32 (batch, {network.channels}, {network.image_size}, {network.image_size}), pixels in [0, 1]",
        "preprocessing": f"(pixel − mean) / std with mean {mean} and std {std}",
        "output": f"logits (batch, {len(network.labels)})",
        "labels": ", ".join(network.labels),
        "how": "; ".join(filter(None, (INPUT[file.suffix], runtime))),
    }
    return "## Use\n\n" + _table(rows)


def _folding(plan: tuple[FoldStep, ...], difference: float | None, n: int) -> str:
    if difference is None:
        return "## Folding\n\nNothing was folded."
    counts = Counter((step.site.slot, step.kind, _target(step), step.how) for step in plan)
    rows = "\n".join(
        f"| {slot} | {kind} | {count} | {into} | {how} |" for (slot, kind, into, how), count in counts.items()
    )
    proof = f"No logit moved by more than {difference:.2g} over {n:,} images (allowed: 1e-4)."
    return f"## Folding\n\n{proof}\n\n| slot | norm | how many | folded into | |\n|---|---|---|---|---|\n{rows}"


def _rounding(difference: float) -> str:
    return (
        "Its weights and statistics are kept in half precision and computed with in single precision, as was done for "
        f"every figure above; the rounding moved no logit by more than {difference:.2g}."
    )


def _target(step: FoldStep) -> str:
    return ", ".join(f"`{linear.rpartition('.')[2]}`" for linear in step.into.split(", ")) if step.into else "stays"


def _versions() -> str:
    versions = {"vitbn": vitbn.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return "## Versions\n\n" + ", ".join(f"{name} {number}" for name, number in versions.items())


def _table(rows: dict[str, str]) -> str:
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {_escaped(value)} |" for name, value in rows.items())


def _escaped(text: str) -> str:
    """Of users' words nothing is markup, and a row stays a row."""
    return re.sub(r"([\\|<>\[\]*$])", r"\\\1", " ".join(text.split()))
