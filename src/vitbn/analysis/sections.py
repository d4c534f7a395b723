"""The report's sections: what was run, accuracies, differences, confounders, as paragraphs, tables and pictures."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from vitbn.analysis.arms import MOST_PLACEMENTS, Arm, cells, finished, paired, placement_pairs
from vitbn.analysis.charts import class_names, confusion, most_confused
from vitbn.analysis.comparisons import Difference, differences, final_accuracies
from vitbn.analysis.confounds import tally
from vitbn.analysis.formatting import DASH, accuracy_text, cell_text, interval_text, plain, points
from vitbn.analysis.records import STATUSES, RunRecord, on_one_hardware, shortened
from vitbn.analysis.stats import mean_interval
from vitbn.plotting import Picture
from vitbn.store.labels import labels
from vitbn.store.run import last_line
from vitbn.terminal import printable

MOST_RUNS = 2000  # rows of single runs
RUN_FILES = ("config.yaml", "metrics.csv", "result.json")
AUGMENTATIONS = {
    True: "on",
    "crop": "random crops and flips",
    "pad_crop": "padded crops",
    "pad_crop_flip": "padded crops and flips",
}


@dataclass(frozen=True)
class Table:
    """A table with a caption; `words` are the columns that read from the left, the others are numbers."""

    caption: str
    head: list[str]
    rows: list[list[str]]
    words: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; left out of the page where it holds nothing."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Its address in the page."""
        return self.title.lower().replace(" ", "-")


def what_was_run(runs: list[RunRecord], arms: list[Arm], warnings: list[str]) -> Section:
    """Counts, data, hardware, versions, and how to read the figures."""
    counts = Counter(run.status for run in runs)
    readable = [run for run in runs if run.status != "unreadable"]
    first, results = readable[0].config, [run.result for run in readable if run.result]
    versions = {pair for result in results for pair in (result.get("versions") or {}).items()}
    augmented = AUGMENTATIONS.get(first.get("data.augment"), "off")
    facts = [
        ["runs", ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])],
        ["data", f"{first.get('data.name')}, augmentation {augmented}"],
        *([["arms", "; ".join(arm.name for arm in arms)]] if arms else []),
        ["epochs", _listed({run.config.get("epochs") for run in readable})],
        ["seeds", _listed({run.seed for run in readable})],
        ["hardware", _recorded("hardware", readable)],
        ["matmul precision", _recorded("matmul_precision", readable)],
        ["versions", ", ".join(f"{name} {version}" for name, version in sorted(versions)) or DASH],
    ]
    paragraphs = [measured_on(first)]
    if unfinished := counts["running"] + counts["interrupted"]:
        paragraphs.append(f"{unfinished} without a result: drawn, but in no mean and no verdict.")
    if max((len(arm.at(*cell)) for arm in arms for cell in cells([arm])), default=2) < 2:
        paragraphs.append("Every configuration was run with a single seed, so no interval can be given.")
    if warnings:
        paragraphs.append(f"Oddities in the files: {shortened(warnings, 20)}.")
    return Section("What was run", paragraphs, [Table("This study", ["", ""], facts, words=(0, 1))])


def _recorded(key: str, runs: list[RunRecord]) -> str:
    """The values in all results, with the number of runs where they differ."""
    values = Counter(str(run.environment.get(key, "not recorded")) for run in runs if run.result)
    texts = [f"{value} ({count} runs)" if len(values) > 1 else value for value, count in sorted(values.items())]
    return "; ".join(texts) or DASH


def _listed(values: set) -> str:
    return ", ".join(map(str, sorted(values, key=lambda value: (isinstance(value, str), value))))


def measured_on(config: dict[str, Any]) -> str:
    """What val/* and test/* are measured on."""
    name = config.get("data.name")
    images = "the official test images" if name in ("mnist", "fashion_mnist") else f"the test images of {name}"
    if config.get("data.source"):
        images = f"the test images of {name} (its validation images where it has no others)"
    clean = f"test/* is measured on {images} as they are"
    if held := config.get("data.holdout"):
        images = (
            f"{held:.0%} of the training images, held out" if held < 1 else f"{held} training images that were held out"
        )
        return f"val/* is measured on {images}; {clean}."
    draw = " under one fixed augmentation draw, the same for every run" if config.get("data.augment") is True else ""
    if config.get("data.source"):
        own = f"the validation images of {name} (its test images where it has no others)"
        return f"val/* is measured on {own}{draw}; {clean}. Both are those of the last epoch."
    return (
        f"val/* is measured on {images}{draw}, so it must not be used to choose hyper-parameters (hold out "
        f"training images with data.holdout for that); {clean}. Both are those of the last epoch."
    )


def tabled(title: str, text: str, table: Table, pictures: Sequence[Picture] = ()) -> Section:
    """A section around one table; an empty one where the table has no rows."""
    return Section(title, [text] if text else [], [table], list(pictures)) if table.rows else Section(title)


def headline(arms: list[Arm]) -> Section:
    """Mean accuracy with its interval for every arm, depth and learning rate."""
    rows = []
    for arm in arms:
        for depth, lr in cells([arm]):
            runs = arm.at(depth, lr)
            done = [run for run in runs if run.status == "done"]
            test = [value for run in done if (value := run.last("test/acc")) is not None]
            pace = [float(np.mean(run.rows["seconds"])) for run in done if len(run.rows.get("seconds", ()))]
            timed = pace and on_one_hardware(done)
            size = {run.fingerprint.get("parameters") for run in done} - {None}
            rows.append([
                arm.name, plain(depth), plain(lr), str(len(done)),
                accuracy_text(mean_interval(final_accuracies(runs))), accuracy_text(mean_interval(test)),
                _remarks(runs), f"{size.pop():,}" if len(size) == 1 else DASH,
                f"{np.mean(pace):.1f}" if timed else DASH,
            ])  # fmt: skip
    head = ["arm", "depth", "lr", "n", "val/acc", "test/acc", "remarks", "parameters", "s per epoch"]
    caption = (
        "Mean over the runs that are done after the last epoch, with 95 % interval (t) over seeds; "
        "seconds where all of these ran on equal hardware"
    )
    return tabled("Accuracy", "", Table(caption, head, rows, words=(0, 6)))


def _remarks(runs: list[RunRecord]) -> str:
    counts = Counter(run.status for run in runs if run.status != "done")
    words = [f"{count} {status}, not in the mean" for status, count in counts.items()]
    stuck = sum(run.result.get("label") == "stuck" for run in runs if run.status == "done")
    return "; ".join(words + ([f"{stuck} of these stuck"] if stuck else [])) or DASH


def paired_section(arms: list[Arm], pictures: list[Picture]) -> Section:
    """Two placements at a time, at equal seed."""
    rows: list[list[str]] = []
    ends: list[tuple[float, float]] = []
    for first, second in placement_pairs(arms):
        found = differences(first, second)
        ends += [(low, high) for low, high in ((row.interval.low, row.interval.high) for row in found)
                 if low is not None and high is not None]  # fmt: skip
        rows += [_difference_row(first, second, row) for row in found]
    apart = sum(not low <= 0 <= high for low, high in ends)
    head = ["contrast", "depth", "lr", "n", "points", "95 % interval", "method", "with diverged"]
    text = (
        "Second arm minus first, in percentage points of val/acc after the last epoch, run by run at equal "
        "seed: equal initial weights where names agree, equal images in equal order. Of more than "
        f"{MOST_PLACEMENTS} placements each is compared with the first. A diverged run scores "
        "as a guess (1/classes), since leaving it out would favour the arm that loses its bad seeds. The "
        "interval is the paired t interval (95 %), and at least one test image wide to each side. "
        f"{len(rows)} comparisons were made, {len(ends)} of them with an interval, and {apart} of these intervals "
        "leave 0 out; nothing is corrected for their number: where nothing differs, 1 in 20 leaves it out by chance."
    )
    return tabled("Paired differences", text, Table("Paired differences of val/acc", head, rows), pictures)


def _difference_row(first: Arm, second: Arm, difference: Difference) -> list[str]:
    interval = difference.interval
    return [
        f"{second.name} − {first.name}", plain(difference.depth), plain(difference.lr), str(interval.n),
        points(interval.estimate), interval_text(interval, points), interval.method,
        str(difference.diverged) if difference.diverged else DASH,
    ]  # fmt: skip


def runs_section(runs: list[RunRecord], target: Path) -> Section:
    """A row per run with its files; `target` is the folder that the addresses start from."""
    readable = [run for run in runs if run.status != "unreadable"]
    named = labels([run.config for run in readable])
    keys = [key for key in named[0] if key == "model" or len({str(each[key]) for each in named}) > 1]
    rows = []
    for run, told in list(zip(readable, named, strict=True))[:MOST_RUNS]:
        accuracies = [run.last(metric) if run.status != "failed" else None for metric in ("val/acc", "test/acc")]
        seconds = run.result.get("seconds")
        rows.append([
            _link(run.run_id, run.path, target), *(plain(told[key]) for key in keys), run.status,
            *(DASH if value is None else f"{100 * value:.2f} %" for value in accuracies),
            str(len(run.rows.get("epoch", ()))), DASH if seconds is None else f"{seconds:.0f}",
            _links(run, target),
        ])  # fmt: skip
    more = f" The first {MOST_RUNS:,} of {len(readable):,} runs." if len(readable) > MOST_RUNS else ""
    text = f"All figures are in summary.csv, the pictures as PNG and SVG in figures/, both beside this page.{more}"
    head = ["run", *keys, "status", "val/acc", "test/acc", "epochs", "seconds", "files"]
    words = (
        0,
        *(1 + index for index, key in enumerate(keys) if key in ("model", "data")),
        len(keys) + 1,
        len(head) - 1,
    )
    return tabled("Runs", text, Table("Every run", head, rows, words))


def _links(run: RunRecord, target: Path) -> str:
    from markupsafe import Markup

    return Markup(" ").join(_link(name, run.path / name, target) for name in RUN_FILES if (run.path / name).exists())


def _link(text: str, path: Path, target: Path) -> str:
    from markupsafe import Markup

    address = quote(os.path.relpath(path, target), errors="surrogateescape")
    return Markup('<a href="{}">{}</a>').format(address, printable(text))


def confused_section(arms: list[Arm], pictures: list[Picture]) -> Section:
    """The ten most frequent confusions of every arm."""
    rows = []
    for arm in arms:
        counts = confusion(arm)
        if counts is not None:
            names = class_names(arm, len(counts))
            rows += [[arm.name, f"{names[i]} taken for {names[j]}", f"{count:,}", f"{100 * share:.2f} %"]
                     for i, j, count, share in most_confused(counts)]  # fmt: skip
    table = Table("Most confused classes on the clean test images; counts of all done runs of an arm together",
                  ["arm", "confusion", "images", "of the true class"], rows, words=(0, 1))  # fmt: skip
    return tabled("Confused classes", "", table, pictures)


def unstable_section(runs: list[RunRecord]) -> Section:
    """Every run that diverged, failed, got stuck or cannot be read."""
    rows = []
    for run in runs:
        if run.status in ("diverged", "failed", "unreadable") or run.result.get("label"):
            status = f"{run.status} {run.result.get('label') or ''}".strip()
            error = run.notes[0] if run.status == "unreadable" else last_line(run.result.get("error"))
            rows.append([run.run_id, status, str(len(run.rows.get("epoch", ()))), error or DASH])
    diverged = sum(run.status == "diverged" for run in runs)
    text = (
        f"{diverged} of {len(finished(runs))} finished runs diverged. They are counted in every table and are part "
        "of no mean; in paired differences and verdicts they score as a guess."
    )
    table = Table("Runs that did not end well", ["run", "status", "epochs", "what happened"], rows, words=(0, 1, 3))
    return Section("Divergences", [text], [table] if rows else [])


def confound_section(arms: list[Arm]) -> Section:
    """What differs between compared arms beyond the placement, and at which depths and learning rates."""
    rows, clean = [], []
    for first, second in placement_pairs(arms):
        names = f"{first.name} / {second.name}"
        pairs_at = {cell: paired(first.at(*cell), second.at(*cell)) for cell in cells([first, second])}
        counts_at = {cell: tally(pairs) for cell, pairs in pairs_at.items()}
        total = sum(map(len, pairs_at.values()))
        lines = dict.fromkeys(line for counts in counts_at.values() for line in counts)
        if total and not lines:
            clean.append(f"{names} ({total} pairs)")
        for line in lines:
            where = [cell_text(*cell) for cell, counts in counts_at.items() if line in counts]
            count = sum(counts.get(line, 0) for counts in counts_at.values())
            rows.append([names, line, shortened(where, 6), f"{count} of {total}"])
    text = (
        "Compared for every pair of runs: configuration, parameter names and counts, initial weights of the "
        "same name, order of the training images, draw of the validation images, and what result.json records of "
        "the computation: matmul precision, versions, hardware, threads. What one of the two runs did not record "
        "may differ, and is listed."
    )
    paragraphs = [text]
    if clean:
        paragraphs.append(f"No difference beyond the placement is recorded for {shortened(clean, 12)}.")
    head = ["arms", "difference", "where", "pairs"]
    table = Table("Differences beyond the placement", head, rows, words=(0, 1, 2))
    return Section("Confounds", paragraphs if rows or clean else [], [table] if rows else [])
