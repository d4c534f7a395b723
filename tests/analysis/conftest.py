"""Synthetic studies: folders as train.py writes them, with planted effects."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from vitbn.analysis.arms import FinishedRuns
from vitbn.analysis.claims import Claim, Part
from vitbn.analysis.records import read_study
from vitbn.analysis.stats import mean_interval
from vitbn.analysis.verdict import judge_claim

SLOTS = (
    "embed_in", "embed_out", "attn_in", "qk", "attn_out",
    "ffn_in", "ffn_hidden", "ffn_act", "ffn_out", "final",
)  # fmt: skip
LAYER = {"embed_in": "layer", "embed_out": "layer", "attn_in": "layer", "final": "layer"}
NORMS = {
    "vit": {**LAYER, "ffn_in": "layer"},
    "vitbnffn": {**LAYER, "ffn_hidden": "batch"},
    "vitbn": {**dict.fromkeys(LAYER, "batch"), "ffn_hidden": "batch"},
}
VIT, BN = {"model.name": "vit"}, {"model.name": "vitbnffn"}
NOISE = (0.0, 0.002, -0.001, 0.001)  # per seed, of the difference
METRICS_COLUMNS = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "lr", "seconds")


def configuration(model, depth, lr, seed, norm, data, qkv_bias, **more) -> dict:
    """A resolved configuration; `norm` and `data` change single entries."""
    config = {"study": "article", "depth": depth, "lr": lr, "pool": "cls", "pos_emb": "learn", "seed": seed,
              "epochs": 10, "batch_size": 100, "compile": False, "runs": "runs"}  # fmt: skip
    config |= more
    data = {"name": "mnist", "root": "data", "augment": True, "holdout": 0, "num_classes": 10} | (data or {})
    network = {"name": model, "num_classes": data["num_classes"]}
    if model in NORMS:
        config["norm"] = {slot: NORMS[model].get(slot, "none") for slot in SLOTS} | (norm or {})
        network |= {"_target_": f"vitbn.{model}", "dim": 64, "depth": depth, "heads": 8, "qkv_bias": qkv_bias}
        network |= {"pool": config["pool"], "pos_emb": config["pos_emb"], "placement": dict(config["norm"])}
    trainer = {"accelerator": "cpu", "devices": 1, "precision": "32-true"}
    optimizer = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": lr, "fused": True}
    return config | {"model": network, "data": data, "optimizer": optimizer, "trainer": trainer}


def curve(final: float, epochs: int, rate: float = 0.6) -> np.ndarray:
    """Validation accuracy that rises from chance and ends at `final`."""
    rise = 1 - np.exp(-rate * np.arange(1, epochs + 1))
    return 0.1 + (final - 0.1) * rise / rise[-1]


def fingerprint(config: dict) -> dict:
    """Weights that agree by name for equal seeds, norms by slot, a bias only where asked for."""
    seed, norms = config["seed"], config.get("norm", {})
    biased = bool(config["model"].get("qkv_bias"))
    weights = {"embedding.project.weight": f"p{seed}", "head.weight": f"h{seed}"}
    weights |= {f"blocks.0.{slot}.weight": "ones" for slot, kind in norms.items() if kind != "none"}
    weights |= {"blocks.0.attention.qkv.bias": f"b{seed}"} if biased else {}
    parameters = 893_164 + 768 * (norms.get("ffn_hidden") == "batch") + 9_216 * biased
    return {"parameters": parameters, "init": f"i{seed}", "order": f"o{seed}", "val": "v", "weights": weights}


def outcome(config: dict, status: str, accuracy: np.ndarray, confusion) -> dict:
    """result.json of a run that ended with these accuracies."""
    done = status == "done"
    counts = np.full((10, 10), 2) + np.diag(np.full(10, 960)) if confusion is None else np.asarray(confusion)
    last = float(accuracy[-1]) if done else None
    metrics = {"val/acc": last, "val/loss": 2.35 - 2.3 * last, "test/acc": last + 0.02} if done else None
    return {
        "status": status, "metrics": metrics, "confusion": counts.tolist() if done else None,
        "epochs": len(accuracy), "seconds": 45.0, "config_hash": "0" * 8,
        "error": None if done else "loss is nan at step 812", "fingerprint": fingerprint(config),
        "versions": {"python": "3.12.3", "torch": "2.14.1"}, "hardware": "a laptop, 2 threads",
    }  # fmt: skip


def write_run(
    into: Path, *, model="vit", depth=4, lr=0.003, seed=0, norm=None, data=None, qkv_bias=False,
    final=0.9, status="done", values=None, confusion=None, steps=None, result=None, **more,
) -> Path:  # fmt: skip
    """One run folder; `values` overrides the val/acc curve, status `running` leaves out result.json."""
    config = configuration(model, depth, lr, seed, norm, data, qkv_bias, **more)
    unlike = zlib.crc32(repr((norm, data, qkv_bias, more)).encode())
    folder = into / f"{model}-d{depth}-lr{lr:g}-s{seed}-{unlike:08x}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    accuracy = curve(final, config["epochs"]) if values is None else np.asarray(values, dtype=float)
    rows = [METRICS_COLUMNS] + [
        (epoch, 2.32 - 2.3 * a, a * 0.98, 2.35 - 2.3 * a, a, lr, 4.0 + 0.1 * epoch)
        for epoch, a in enumerate(accuracy, start=1)
    ]
    (folder / "metrics.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    if steps is not None:
        lines = "".join(f"{step},{loss}\n" for step, loss in enumerate(steps, start=1))
        (folder / "steps.csv").write_text("step,train/loss\n" + lines)
    if status != "running":
        content = outcome(config, status, accuracy, confusion) | (result or {})
        (folder / "result.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def write():
    """Write one run into a folder: write(folder, model=..., depth=..., seed=..., final=...)."""
    return write_run


@pytest.fixture
def study(tmp_path):
    """The folder of a study named `article`, still empty."""
    return tmp_path / "runs" / "article"


@pytest.fixture
def run(study):
    """Write one run, into the study or elsewhere: run(model=..., depth=..., seed=..., final=...)."""
    return lambda into=study, **keys: write_run(into, **keys)


@pytest.fixture
def part():
    """A part of a claim: part(kind, expect, a=…, b=…, …); by default ViTBNFFN ends ahead of ViT."""

    def make(kind="difference", expect="greater", a=BN, b=VIT, **keys):
        defaults = {
            "id": "p", "statement": "", "metric": "val/acc", "smallest_effect": 0.01, "margin": 0.05,
            "train": "x=1", "start": {}, "end": {}, "epoch": None, "steps": None, "than": 0.0, "figure": "",
        }  # fmt: skip
        return Part(kind=kind, expect=expect, a=a, b=b, **(defaults | keys))

    return make


@pytest.fixture
def verdict(study):
    """The result of a claim of these parts, held against the study: verdict(*parts, seeds=3)."""

    def judge(*parts, seeds=3):
        return judge_claim(Claim("c", "", "", "article", seeds, list(parts)), FinishedRuns(read_study(study)))

    return judge


@pytest.fixture(scope="session")
def reach():
    """Half the width of the interval of a mean, in standard deviations of a seed: reach(n, level)."""

    def of(n, level=0.95):
        values = np.arange(n)
        interval = mean_interval(values, level)
        return (interval.high - interval.estimate) / values.std(ddof=1)

    return of


@pytest.fixture
def planted(run):
    """Write ViT and ViTBNFFN `effect` above it, at equal seeds: planted(0.03, seeds=3)."""

    def plant(effect, seeds=3, **keys):
        for seed in range(seeds):
            run(model="vit", seed=seed, final=0.8 + 0.01 * seed, **keys)
            run(model="vitbnffn", seed=seed, final=0.8 + 0.01 * seed + effect + NOISE[seed % 4], **keys)

    return plant
