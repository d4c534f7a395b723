"""The table and the picture of experiment=norm_arena, from the kept runs.

python results/arena.py            # Markdown on the terminal, docs/images/results/norm-arena.png
python results/arena.py cost       # measures what each placement costs in evaluation, into norm_arena/cost.json
python results/arena.py early      # what measured at epoch 1 goes with a bad end, of seeds of one placement
"""

import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from vitbn.analysis.arms import Arm, group
from vitbn.analysis.comparisons import metric_value
from vitbn.analysis.formatting import DASH, interval_text, percent
from vitbn.analysis.instruments import summarized
from vitbn.analysis.records import RunRecord, by_data, read_studies
from vitbn.analysis.stats import mean_interval, rank_correlation
from vitbn.inference.fold import fold
from vitbn.models.placements import named
from vitbn.models.vit import VisionTransformer
from vitbn.norms import set_progress
from vitbn.plotting import COLOURS, Picture, style
from vitbn.training.fingerprint import environment

KEPT = Path(__file__).parent
COST = KEPT / "norm_arena" / "cost.json"
IMAGES = KEPT.parent / "docs" / "images" / "results"
ROUNDS, BATCH, PASSES = 15, 100, 5
STUCK = 0.15  # a placement whose best run ends below has nothing to order
FEWEST = 6  # placements of an average


def placement_of(arm: Arm) -> str:
    """The name in conf/norm/ that was typed."""
    return arm.name.partition("norm=")[2] or "vit"


def speed(run: RunRecord) -> float | None:
    """Mean validation accuracy over the epochs: higher for a run that rises earlier."""
    accuracies = run.rows["val/acc"]
    return float(accuracies.mean()) if run.status == "done" else metric_value(run, "val/acc")


def shown(values: list[float | None]) -> str:
    """Mean and interval in percent."""
    interval = mean_interval([value for value in values if value is not None])
    within = replace(interval, low=bounded(interval.low), high=bounded(interval.high))
    return f"{percent(interval.estimate)} {interval_text(within, lambda x: f'{100 * x:.1f}')}" if interval.n else DASH


def bounded(share: float | None) -> float | None:
    """The end of an interval, within what an accuracy can be."""
    return None if share is None else min(1.0, max(0.0, share))


def ends(arm: Arm, lr: float) -> list[float]:
    """Validation accuracies after the last epoch; 0 where there is none."""
    return [metric_value(run, "val/acc") or 0.0 for run in arm.at(4, lr)]


def mean_end(arm: Arm, lr: float) -> float:
    """What placements are ranked by."""
    return statistics.fmean(ends(arm, lr) or [0.0])


def table(arms: list[Arm], lrs: list[float], cost: dict[str, dict]) -> list[str]:
    """A row per placement, the best end at the lower learning rate first."""
    head = [f"{what} at {lr:g}" for lr in lrs for what in ("end", "speed")]
    lines = [f"| placement | n | {' | '.join(head)} | stuck or diverged | norms left, time when folded |"]
    lines.append("|---|---:|" + "---:|" * len(head) + "---:|---:|")
    for arm in sorted(arms, key=lambda arm: -mean_end(arm, lrs[0])):
        name = placement_of(arm)
        runs = [run for lr in lrs for run in arm.at(4, lr)]
        cells = [text for lr in lrs for text in (shown(ends(arm, lr)), shown([speed(run) for run in arm.at(4, lr)]))]
        bad = sum(run.status == "diverged" or run.result.get("label") == "stuck" for run in runs)
        of = cost.get(name)
        price = f"{of['norms']}, {of['ratio']:.2f} [{of['low']:.2f}, {of['high']:.2f}]" if of else DASH
        fewest = min(len(arm.at(4, lr)) for lr in lrs)
        lines.append(f"| `{name}` | {fewest} | {' | '.join(cells)} | {bad} of {len(runs)} | {price} |")
    return lines


def picture(arms: list[Arm], lrs: list[float]) -> Picture:
    """End accuracies with their intervals, a line per placement and a colour per learning rate."""
    from matplotlib.figure import Figure

    ordered = sorted(arms, key=lambda arm: mean_end(arm, lrs[0]))
    figure = Figure(figsize=(7.2, 0.34 * len(arms) + 1.2), layout="constrained")
    ax = figure.subplots()
    for index, lr in enumerate(lrs):
        for row, arm in enumerate(ordered):
            values = [100 * end for end in ends(arm, lr)]
            y, look = row + 0.16 * (0.5 - index) * 2, {"color": COLOURS[index]}
            ax.plot(values, [y] * len(values), "o" if index == 0 else "s", markersize=3, alpha=0.45, **look)
            interval = mean_interval(values)
            if interval.low is not None and interval.high is not None:
                label = f"learning rate {lr:g}" if row == 0 else None
                ax.plot([max(0, interval.low), min(100, interval.high)], [y, y], linewidth=2.2, label=label, **look)
    ax.set_yticks(range(len(ordered)), [placement_of(arm) for arm in ordered])
    ax.set_xlabel("validation accuracy after the last epoch, %: runs, and 95 % intervals of the mean")
    ax.axvline(10, color="#888888", linewidth=1, linestyle=":")
    if ax.get_legend_handles_labels()[1]:
        figure.legend(loc="outside upper left", ncols=2)
    best, worst = placement_of(ordered[-1]), placement_of(ordered[0])
    alt = f"End accuracies of {len(arms)} placements at learning rates {lrs}; best {best}, worst {worst} at the lower."
    return Picture("norm-arena", "Placements", "", alt, figure)


def measure_cost() -> None:
    """Seconds of a batch in evaluation, everything folded that folds, in turns; ratios to ViT of the same round."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, nets = torch.rand(BATCH, 1, 28, 28), {}
    for name in sorted({placement_of(arm) for arm in group(read_studies([KEPT / "norm_arena"])[0])} | {"vit"}):
        net = VisionTransformer(depth=4, placement=named(name)).eval()
        set_progress(net, 1)
        nets[name] = fold(net).net
    seconds: dict[str, list[float]] = {name: [] for name in nets}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, net in nets.items():
                start = time.perf_counter()
                for _ in range(PASSES):
                    net(images)
                seconds[name].append(time.perf_counter() - start)
    found = {}
    for name, of in seconds.items():
        ratios = [a / b for a, b in zip(of, seconds["vit"], strict=True)]
        kinds = nets[name].placement
        low, _, high = statistics.quantiles(ratios, n=4)
        left = sum(kind != "none" for kind in kinds.values())
        found[name] = {"norms": left, "ratio": statistics.median(ratios), "low": low, "high": high, "n": ROUNDS}
    COST.write_text(json.dumps({"conditions": environment(torch.device("cpu")), "placements": found}, indent=1) + "\n")


def early_signs(arms: list[Arm], lr: float) -> list[str]:
    """Spearman's correlation over the seeds of a placement, averaged over placements that are not stuck: each
    measurement of epoch 1 with the end, the strongest first. 95 % intervals (t) over placements."""
    found: dict[str, list[float]] = {}
    for arm in arms:
        runs = [run for run in arm.at(4, lr) if run.instruments is not None]
        if max(ends(arm, lr), default=0) < STUCK or len(runs) < len(arm.at(4, lr)):
            continue
        measured = [{**dict(summarized(run.instruments.first)), **first_row(run)} for run in runs]
        for name in set.intersection(*map(set, measured)):
            correlation = rank_correlation([of[name] for of in measured], ends(arm, lr))
            if correlation is not None:
                found.setdefault(name, []).append(correlation.estimate)
    averages = {name: mean_interval(values) for name, values in found.items() if len(values) >= FEWEST}
    rows = [
        f"| measured at epoch 1, learning rate {lr:g} | mean rank correlation with the end | placements |",
        "|---|---:|---:|",
    ]
    for name, interval in sorted(averages.items(), key=lambda item: (-abs(item[1].estimate), item[0])):
        text = interval_text(interval, lambda value: f"{value:+.2f}")
        rows.append(f"| {name} | {interval.estimate:+.2f} {text} | {interval.n} |")
    return rows


def first_row(run: RunRecord) -> dict[str, float]:
    """What metrics.csv says of the first epoch."""
    return {f"`{name}`": float(run.rows[name][0]) for name in ("train/loss", "val/acc")}


if __name__ == "__main__":
    if sys.argv[1:] == ["cost"]:
        measure_cost()
        sys.exit()
    studies = by_data(read_studies([KEPT / "norm_arena"])[0])
    if sys.argv[1:] == ["early"]:
        for lr in (0.003, 0.005):
            print(*early_signs(group(studies["mnist5k"]), lr), "", sep="\n")
        sys.exit()
    costs = json.loads(COST.read_text())["placements"] if COST.exists() else {}
    for data, runs in studies.items():
        arms = group(runs)
        lrs = sorted({run.lr for run in runs if run.lr is not None})
        print(f"\n{data}, {len(runs)} runs\n", *table(arms, lrs, costs), sep="\n")
        if data == "mnist5k":
            with style():
                drawn = picture(arms, lrs)
                drawn.save(IMAGES)
                (IMAGES / "norm-arena.svg").unlink()
            print(f"\nnorm-arena.png: {drawn.alt}")
