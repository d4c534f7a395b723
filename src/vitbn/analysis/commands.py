"""The commands `vitbn report` and `vitbn claims` as plain functions."""

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vitbn.analysis.arms import FinishedRuns
from vitbn.analysis.claims import Claim, load_claims
from vitbn.analysis.filters import fitting, split_words
from vitbn.analysis.formatting import NUMBER_COLUMNS, expectation, result_texts
from vitbn.analysis.records import RunRecord, read_studies
from vitbn.analysis.table import print_table, study_configs
from vitbn.analysis.verdict import ClaimResult, judge_claim
from vitbn.errors import InputError
from vitbn.resources import resource_folder
from vitbn.store.status import study_folder, study_folders
from vitbn.terminal import print_text, printable, terminal_table

VERDICT_COLUMNS = ("claim", "part", "verdict", "expected", *NUMBER_COLUMNS)
KEPT = resource_folder("results")  # the runs behind docs/results.md, in a checkout


def table(words: Sequence[str], runs_root: Path = Path("runs")) -> None:
    """Print the runs of a study, by default of the latest, that fit the filters."""
    names, filters = split_words(words)
    if len(names) > 1:
        raise InputError(f"vitbn table: one study at a time, not {', '.join(names)}")
    latest = study_folders(runs_root) if not names else []
    if not names and not latest:
        raise InputError(f"{runs_root}: no studies there; vitbn train starts one")
    study = study_folder(names[0], runs_root) if names else latest[0]
    print_table(study, fitting(study_configs(study), filters))


def report(words: Sequence[str], runs_root: Path = Path("runs"), out: Path | None = None) -> list[Path]:
    """Write the report of these studies, a page per data set; the paths of the pages."""
    from vitbn.analysis.report import write_reports

    names, filters = split_words(words)
    if not names:
        raise InputError("vitbn report: name a study, such as runs/article")
    return write_reports([study_folder(name, runs_root) for name in names], filters, out)


def claims(ids: list[str], runs_root: Path | None = None, run: bool = False, markdown: bool = False) -> int:
    """Print the verdicts (without ids of all claims); `run` trains what is missing first. Exit status.

    Without `runs_root` a claim is held against ./runs, or where its study has no runs there against those in results/.
    """
    if run and not ids:
        raise InputError("vitbn claims --run: name the claims to train for, or all")
    chosen = load_claims(ids)
    roots = [runs_root] if runs_root is not None else [Path("runs")] if run else [Path("runs"), KEPT]
    failed = [command for command in dict.fromkeys(_missing(chosen, roots)) if _train(command)] if run else []
    results = _results(chosen, roots)
    if markdown:
        print(markdown_table(results))
    else:
        folders = dict.fromkeys(_study_of(claim, roots) for claim in chosen)
        print_verdicts(results, roots[0])
        print_text(f"\nread: {', '.join(_folder_words(folder) for folder in folders)}")
    for command in failed:
        print(f"failed: {command}", file=sys.stderr)
    return 1 if failed else 0


def _study_of(claim: Claim, roots: Sequence[Path]) -> Path:
    """The study that the claim is held against: the first that has runs."""
    folders = [root / claim.study for root in roots]
    return next((folder for folder in folders if any(folder.glob("*/config.yaml"))), folders[0])


def _folder_words(folder: Path) -> str:
    shown = os.path.relpath(folder) if folder.is_relative_to(KEPT) else str(folder)
    return f"{shown} ({sum(1 for _ in folder.glob('*/config.yaml'))} runs)"


def print_verdicts(results: list[ClaimResult], runs_root: Path) -> None:
    """The verdicts, then per claim its parts, its notes and the command that trains or reproduces it."""
    console = Console()
    lines = [(result.claim.id, result.verdict, _counted(result)) for result in results]
    console.print(terminal_table(("claim", "verdict", "parts"), lines, words=("claim", "verdict", "parts")))
    for result in results:
        _print_details(console, result, runs_root)


def _counted(result: ClaimResult) -> str:
    counts = Counter(judged.verdict for judged in result.parts)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def markdown_table(results: list[ClaimResult]) -> str:
    """The verdict table for a page: a row per claim with its statement, a row per part."""
    lines = [f"| {' | '.join(VERDICT_COLUMNS)} |", "|---|---|---|---|" + "---:|" * len(NUMBER_COLUMNS)]
    for result in results:
        empty = "| " * (1 + len(NUMBER_COLUMNS))
        lines.append(f"| **{result.claim.id}** | {_cell(result.claim.statement)} | **{result.verdict}** {empty}|")
        lines += [f"| | {' | '.join(map(_cell, row))} |" for row in _part_rows(result)]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """A cell of a Markdown table: the text neither ends it nor is taken for HTML or emphasis."""
    return re.sub(r"([\\|`*_\[\]$])|<(?=[a-zA-Z/!])", _escaped, " ".join(text.split()))


def _escaped(found: re.Match[str]) -> str:
    return f"\\{found[1]}" if found[1] else "&lt;"


def _part_rows(result: ClaimResult) -> list[tuple[str, ...]]:
    return [(p.part.id, p.verdict, expectation(p.part), *result_texts(p)) for p in result.parts]


def _print_details(console: Console, result: ClaimResult, runs_root: Path) -> None:
    claim = result.claim
    print_text(f"\n{claim.id} {result.verdict}  {claim.statement} ({claim.source})")
    if claim.figures:
        print_text(f"  figures given: {claim.figures}")
    columns = ("part", "verdict", "expected", *NUMBER_COLUMNS)
    console.print(terminal_table(columns, _part_rows(result), words=columns[:3]))
    for judged in result.parts:
        for note in judged.notes:
            style = "yellow" if note.startswith("confound") else None
            console.print(f"  {judged.part.id}: {printable(note)}", markup=False, style=style)
    if result.sharing:
        print_text(f"  {result.sharing}")
    budget = f" ({claim.budget} in all)" if result.missing and claim.budget else ""
    print_text(f"  {result.advice}{budget}:")
    for command in result.commands:
        print_text(f"    {_with_root(command, runs_root)}")


def _results(chosen: list[Claim], roots: Sequence[Path]) -> list[ClaimResult]:
    studies: dict[Path, FinishedRuns] = {}
    for claim in chosen:
        folder = _study_of(claim, roots)
        if folder not in studies:
            studies[folder] = FinishedRuns(_read(folder))
    return [judge_claim(claim, studies[_study_of(claim, roots)]) for claim in chosen]


def _read(folder: Path) -> list[RunRecord]:
    if not any(folder.glob("*/config.yaml")):
        return []
    try:
        runs, warnings = read_studies([folder])
    except InputError as error:  # not one of its runs can be read
        runs, warnings = [], [str(error)]
    for warning in warnings:
        print(f"warning: {printable(warning)}", file=sys.stderr)
    return runs


def _missing(chosen: list[Claim], roots: Sequence[Path]) -> list[str]:
    return [_with_root(command, roots[0]) for result in _results(chosen, roots) for command in result.missing]


def _with_root(command: str, runs_root: Path) -> str:
    """The command with `runs=` where it is to train elsewhere than in ./runs; never into the kept runs."""
    root = Path(runs_root).resolve()
    return (
        command if root in (Path("runs").resolve(), KEPT.resolve()) else f"{command} runs={shlex.quote(str(runs_root))}"
    )


def _train(command: str) -> int:
    print(command, flush=True)
    return subprocess.run([sys.executable, "-m", *shlex.split(command)], check=False).returncode
