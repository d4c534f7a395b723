"""The table "When does BatchNorm in the feed-forward matter?" of docs/results.md, from the kept runs.

python results/practice.py
"""

from pathlib import Path

from vitbn.analysis.arms import paired
from vitbn.analysis.comparisons import metric_value, resolution
from vitbn.analysis.formatting import DASH, interval_text, points
from vitbn.analysis.records import RunRecord, read_studies
from vitbn.analysis.stats import mean_interval

KEPT = Path(__file__).parent
EPOCHS, DEPTH = 5, 6
# What is changed of the article's settings, one at a time.
SETTINGS = {
    "as in the article": {},
    "warm-up over 10 % of the steps": {"schedule.warmup": 0.1},
    "AdamW, weight decay 0.05": {"optimizer.weight_decay": 0.05},
    "gradients clipped to norm 1": {"trainer.gradient_clip_val": 1},
    "batch 32": {"batch_size": 32},
    "batch 400": {"batch_size": 400},
}
ARTICLE = {
    "schedule.warmup": None,
    "optimizer.weight_decay": None,
    "trainer.gradient_clip_val": None,
    "batch_size": 100,
}


def of_setting(runs: list[RunRecord], model: str, lr: float, changed: dict) -> list[RunRecord]:
    """The runs of one arm that differ from the article's in this alone."""
    wanted = ARTICLE | changed | {"model.name": model, "lr": lr, "depth": DEPTH}
    return [run for run in runs if all((run.config.get(key) or None) == value for key, value in wanted.items())]


def row(runs: list[RunRecord], name: str, lr: float) -> str:
    """Accuracies after `EPOCHS` epochs of both arms by seed, and ViTBNFFN minus ViT, paired by seed."""
    pairs = paired(*(of_setting(runs, model, lr, SETTINGS[name]) for model in ("vit", "vitbnffn")))
    ends = [tuple(metric_value(run, "val/acc", EPOCHS) or 0.0 for run in pair) for pair in pairs]
    shown = [", ".join(f"{100 * end:.1f}" for end in arm) or DASH for arm in zip(*ends, strict=True)] or [DASH, DASH]
    found = mean_interval([bn - plain for plain, bn in ends], resolution=resolution("val/acc", runs))
    interval = f"{points(found.estimate)} {interval_text(found, points)}" if found.n else DASH
    return f"| {name} | {lr:g} | {len(ends)} | {' | '.join(shown)} | {interval} |"


if __name__ == "__main__":
    kept = read_studies(study for study in (KEPT / "practice", KEPT / "article") if study.exists())[0]
    print("| setting | learning rate | n | ViT, each seed | ViTBNFFN, each seed | ViTBNFFN − ViT, points |")
    print("|---|---:|---:|---|---|---:|")
    for lr in (0.003, 0.005):
        print(*(row(kept, name, lr) for name in SETTINGS), sep="\n")
