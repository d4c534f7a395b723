"""The commands `vitbn report` and `vitbn claims` as plain functions."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vitbn.analysis.arms import FinishedRuns
from vitbn.analysis.claims import INCONCLUSIVE, REFUTED, SUPPORTED, Claim, load_claims
from vitbn.analysis.formatting import effect_texts, expectation
from vitbn.analysis.records import RunRecord, read_studies
from vitbn.analysis.verdict import ClaimResult, judge_claim
from vitbn.errors import InputError

NUMBER_COLUMNS = ("effect", "95 % interval", "n")
VERDICT_COLUMNS = ("claim", "part", "verdict", "expected", *NUMBER_COLUMNS)
_COLOURS = {SUPPORTED: "green", REFUTED: "red", INCONCLUSIVE: "yellow"}


def report(paths: list[Path]) -> Path:
    """Write the report of these studies; the path of its page."""
    from vitbn.analysis.report import write_report

    if not paths:
        raise InputError("vitbn report: name a study, such as runs/article")
    return write_report([Path(path) for path in paths])


def claims(ids: list[str], runs_root: Path = Path("runs"), run: bool = False, markdown: bool = False) -> int:
    """Print the verdicts (without ids of all claims); `run` trains what is missing first. Exit status."""
    if run and not ids:
        raise InputError("vitbn claims --run: name the claims to train for, or all")
    chosen = load_claims(ids)
    failed = [command for command in dict.fromkeys(_missing(chosen, runs_root)) if _train(command)] if run else []
    results = _results(chosen, runs_root)
    if markdown:
        print(markdown_table(results))
    else:
        print_verdicts(results, runs_root)
    for command in failed:
        print(f"failed: {command}", file=sys.stderr)
    return 1 if failed else 0


def print_verdicts(results: list[ClaimResult], runs_root: Path) -> None:
    """The verdict table, then per claim its notes and the command that trains or reproduces it."""
    console = Console()
    table = Table(title="Claims", title_justify="left", title_style="bold")
    for column in VERDICT_COLUMNS:
        table.add_column(column, justify="right" if column in NUMBER_COLUMNS else "left", no_wrap=column == "verdict")
    for result in results:
        table.add_row(f"[bold]{result.claim.id}", "", _coloured(result.verdict), "", "", "", "")
        for part, verdict, *rest in _part_rows(result):
            table.add_row("", escape(part), _coloured(verdict), *map(escape, rest))
        table.add_section()
    console.print(table)
    for result in results:
        _print_details(console, result, runs_root)


def markdown_table(results: list[ClaimResult]) -> str:
    """The verdict table for a page: a row per claim with its statement, a row per part."""
    lines = [f"| {' | '.join(VERDICT_COLUMNS)} |", "|---|---|---|---|" + "---:|" * len(NUMBER_COLUMNS)]
    for result in results:
        lines.append(f"| **{result.claim.id}** | {_cell(result.claim.statement)} | **{result.verdict}** | | | | |")
        lines += [f"| | {' | '.join(map(_cell, row))} |" for row in _part_rows(result)]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """A cell of a Markdown table: the text neither ends it nor is taken for HTML."""
    return re.sub(r"<(?=[a-zA-Z/!])", "&lt;", " ".join(text.split()).replace("|", r"\|"))


def _part_rows(result: ClaimResult) -> list[tuple[str, ...]]:
    """Part, verdict, expected, effect, interval, n."""
    return [
        (p.part.id, p.verdict, expectation(p.part), *effect_texts(p.part, p.effect), str(p.effect.n))
        for p in result.parts
    ]


def _print_details(console: Console, result: ClaimResult, runs_root: Path) -> None:
    claim = result.claim
    console.print(
        f"\n[bold]{claim.id}[/] {_coloured(result.verdict)}  {escape(claim.statement)} ({escape(claim.source)})"
    )
    if claim.figures:
        console.print(f"  figures given: {claim.figures}", markup=False)
    for judged in result.parts:
        for note in judged.notes:
            style = "yellow" if note.startswith("confound") else None
            console.print(f"  {judged.part.id}: {note}", markup=False, style=style)
    budget = f" ({claim.budget} in all)" if result.missing and claim.budget else ""
    console.print(f"  {result.advice}{budget}:")
    for command in result.commands:
        console.print(f"    {_with_root(command, runs_root)}", markup=False, soft_wrap=True)


def _coloured(verdict: str) -> str:
    return f"[{_COLOURS[verdict]}]{verdict}[/]"


def _results(chosen: list[Claim], runs_root: Path) -> list[ClaimResult]:
    studies: dict[str, FinishedRuns] = {}
    for claim in chosen:
        if claim.study not in studies:
            studies[claim.study] = FinishedRuns(_read(Path(runs_root) / claim.study))
    return [judge_claim(claim, studies[claim.study]) for claim in chosen]


def _read(folder: Path) -> list[RunRecord]:
    if not any(folder.glob("*/config.yaml")):
        return []
    runs, warnings = read_studies([folder])
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return runs


def _missing(chosen: list[Claim], runs_root: Path) -> list[str]:
    return [_with_root(command, runs_root) for result in _results(chosen, runs_root) for command in result.missing]


def _with_root(command: str, runs_root: Path) -> str:
    """The command with `runs=` where the runs do not lie in ./runs."""
    root = Path(runs_root).resolve()
    return command if root == Path("runs").resolve() else f"{command} runs={shlex.quote(str(root))}"


def _train(command: str) -> int:
    print(command, flush=True)
    return subprocess.run([sys.executable, "-m", *shlex.split(command)], check=False).returncode
