"""The page beside an exported file: what it is, how good it is, how to use it."""

import platform
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import vitbn
from vitbn.inference.fold import FoldStep
from vitbn.inference.metrics import Scores
from vitbn.weights.network import Network

SETTINGS = ("epochs", "batch_size", "lr", "seed", "pool", "pos_emb", "recalibrate_bn")
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
) -> str:
    """The card as Markdown; `trained` is the configuration before folding."""
    parts = [
        f"# {file.name}",
        _training(trained),
        _quality(data, scores),
        _use(file, network),
        _folding(plan, folding_difference, scores.n),
        f"This file was run again and compared: no logit differs from the network's by more than "
        f"{file_difference:.2g} over the same {scores.n:,} images.",
        *([] if rounding_difference is None else [_rounding(rounding_difference)]),
        _versions(),
    ]
    return "\n\n".join(parts) + "\n"


def _training(config: dict[str, Any]) -> str:
    model, data = config["model"], config.get("data", {})
    size = {key: value for key, value in model.items() if key not in ("name", "_target_", "placement")}
    norms = {slot: kind for slot, kind in model.get("placement", {}).items() if kind != "none"}
    rows = {
        "network": model["name"],
        "norms as trained": ", ".join(f"{slot}: {kind}" for slot, kind in norms.items()) or "none",
        "size": ", ".join(f"{key} {value}" for key, value in size.items()),
        "trained on": f"{data.get('name', '?')}, augmented: {data.get('augment', '?')}",
        "settings": ", ".join(f"{key}={config[key]}" for key in SETTINGS if key in config),
    }
    return "## Training\n\n" + _table(rows)


def _quality(data: str, scores: Scores) -> str:
    rows = {
        "accuracy": f"{scores.accuracy:.2%}",
        "cross-entropy": f"{scores.loss:.4f}",
        "calibration error": f"{scores.calibration_error:.4f}",
    }
    heading = f"## Quality\n\nOn the {scores.n:,} clean test images of `{data}` (n = {scores.n}):\n\n"
    classes = "\n".join(
        f"| {row.label} | {row.images} | {'–' if row.recall is None else f'{row.recall:.2%}'} |"
        for row in scores.classes
    )
    return f"{heading}{_table(rows)}\n\n| class | images | recognised |\n|---|---|---|\n{classes}"


def _use(file: Path, network: Network) -> str:
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (network.mean, network.std))
    rows = {
        "input": f"float32 (batch, {network.channels}, {network.image_size}, {network.image_size}), pixels in [0, 1]",
        "preprocessing": f"(pixel − mean) / std with mean {mean} and std {std}",
        "output": f"logits (batch, {len(network.labels)})",
        "labels": ", ".join(network.labels),
        "how": INPUT[file.suffix],
    }
    return "## Use\n\n" + _table(rows)


def _folding(plan: tuple[FoldStep, ...], difference: float | None, n: int) -> str:
    if difference is None:
        return "## Folding\n\nNothing was folded."
    counts = Counter((step.site.slot, step.kind, _target(step), step.how) for step in plan)
    rows = "\n".join(
        f"| {slot} | {kind} | {count} | {into} | {how} |" for (slot, kind, into, how), count in counts.items()
    )
    proof = f"No logit moved by more than {difference:.2g} over {n:,} test images (allowed: 1e-4)."
    return f"## Folding\n\n{proof}\n\n| slot | norm | how many | folded into | |\n|---|---|---|---|---|\n{rows}"


def _rounding(difference: float) -> str:
    return (
        "Its weights and statistics are kept in half precision and computed with in single precision, as was done for "
        f"every figure above; the rounding moved no logit by more than {difference:.2g}."
    )


def _target(step: FoldStep) -> str:
    return f"`{step.into.rpartition('.')[2]}`" if step.into else "stays"


def _versions() -> str:
    versions = {"vitbn": vitbn.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return "## Versions\n\n" + ", ".join(f"{name} {number}" for name, number in versions.items())


def _table(rows: dict[str, str]) -> str:
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())
