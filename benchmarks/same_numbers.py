"""Train small configurations from two checkouts and compare what they wrote, to the last bit.

python benchmarks/same_numbers.py OLD NEW [--only NAME ...] [--work FOLDER]

Weights (last.ckpt, best.ckpt), metrics.csv and steps.csv without their seconds, and what result.json says of the
training. One thread, float32 products as torch's `highest`. OLD's runs stay in FOLDER and are not trained again.
Exits with 1 if anything differs.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SMALL = ["data=mnist5k", "epochs=2", "depth=2"]
CONFIGURATIONS = {
    "vit": ["model=vit", *SMALL],
    "vitbnffn": ["model=vitbnffn", *SMALL],
    "vitbn": ["model=vitbn", *SMALL],
    "vitbn_scalar": ["model=vitbn_scalar", *SMALL],
    "norms": ["model=vit", "norm.qk=layer", "norm.attn_out=batch", *SMALL],
    "dnn_bn": ["model=dnn_bn", "data=mnist5k", "epochs=2"],
    "mlp": ["model=mlp", "data=mnist5k", "epochs=2", "optimizer=sgd"],
    "resnet34": ["model=resnet34", "data=folder", "data.root={images}", "data.image_size=32", "data.holdout=8",
                 "batch_size=7", "epochs=2"],
    "mean": ["model=vitbnffn", "pool=mean", *SMALL],
    "pe1d": ["model=vit", "pos_emb=pe1d", *SMALL],
    "cosine": ["model=vit", "schedule=cosine", *SMALL],
    "holdout": ["model=vit", "data.holdout=500", *SMALL],
    "recalibrate": ["model=vitbnffn", "recalibrate_bn=true", *SMALL],
    "log_every": ["model=vitbnffn", "log_every=10", "test_train_mode=true", *SMALL],
    "float64": ["model=vitbnffn", "trainer.precision=64-true", *SMALL],
    "ragged": ["model=vitbnffn", "batch_size=300", "val_batch_size=300", *SMALL],
}  # fmt: skip
OF_A_TRAINING = ("status", "label", "metrics", "epochs", "fingerprint", "confusion")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--work", type=Path, default=None, help="keeps the runs (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        make_images(work / "images")
        worst = 0
        for name in args.only:
            old = trained(args.old.resolve(), work / "old" / name, name, work / "images", again=False)
            new = trained(args.new.resolve(), work / "new" / name, name, work / "images", again=True)
            different = differences(old, new)
            worst |= bool(different)
            print(f"{name:12} {'; '.join(different) or 'equal'}", flush=True)
    return worst


def make_images(folder: Path) -> None:
    """Twenty noisy pictures of each of two classes."""
    generator = np.random.default_rng(0)
    for number in range(40):
        path = folder / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 128, (32, 32, 3)) + 127 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def trained(checkout: Path, runs: Path, name: str, images: Path, *, again: bool) -> Path:
    """The folder of the configuration's run."""
    if again:
        shutil.rmtree(runs, ignore_errors=True)
    known = [path.parent for path in runs.glob("same/*/result.json")]
    if not known:
        words = [word.format(images=images) for word in CONFIGURATIONS[name]]
        if "\nmatmul:" in (checkout / "conf" / "config.yaml").read_text():
            words.append("matmul=highest")
        environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "train.py", *words, "study=same", f"runs={runs}"]
        subprocess.run(command, cwd=checkout, env=environment, check=True, stdout=subprocess.DEVNULL)
        known = [path.parent for path in runs.glob("same/*/result.json")]
    (folder,) = known
    return folder


def differences(old: Path, new: Path) -> list[str]:
    """What the two runs do not share."""
    different = []
    for checkpoint in ("last.ckpt", "best.ckpt"):
        before, after = (weights(folder / "checkpoints" / checkpoint) for folder in (old, new))
        if before.keys() != after.keys():
            different.append(f"{checkpoint}: {sorted(before.keys() ^ after.keys())}")
        unequal = [key for key in before.keys() & after.keys() if not torch.equal(before[key], after[key])]
        if unequal:
            gap = max((before[key].double() - after[key].double()).abs().max().item() for key in unequal)
            different.append(f"{checkpoint}: {len(unequal)} of {len(before)} tensors, by up to {gap:.1e}")
    for table in ("metrics.csv", "steps.csv"):
        if not same_rows(rows(old / table), rows(new / table)):
            different.append(table)
    before, after = (json.loads((folder / "result.json").read_text()) for folder in (old, new))
    return different + [f"result.json: {key}" for key in OF_A_TRAINING if before.get(key) != after.get(key)]


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, Any] = torch.load(path, weights_only=True)["state_dict"]
    return {key: value for key, value in state.items() if key.startswith("net.")}


def same_rows(old: list[dict[str, str]], new: list[dict[str, str]]) -> bool:
    """Whether the columns that both have are equal: later versions write further metrics."""
    common = set(old[0]) & set(new[0]) if old and new else set()
    return [{key: row[key] for key in common} for row in old] == [{key: row[key] for key in common} for row in new]


def rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


if __name__ == "__main__":
    sys.exit(main())
