"""report.html, figures/ and summary.csv from run folders; works while the study is still going."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitbn.analysis import charts, curves
from vitbn.analysis.arms import Arm, FinishedRuns, group
from vitbn.analysis.claims import INCONCLUSIVE, REFUTED, SUPPORTED, load_claims
from vitbn.analysis.formatting import DASH, effect_texts, expectation
from vitbn.analysis.records import RunRecord, read_studies
from vitbn.analysis.search_sections import search_pictures, search_section, study_search
from vitbn.analysis.sections import (
    Section,
    Table,
    confound_section,
    confused_section,
    headline,
    paired_section,
    unstable_section,
    what_was_run,
)
from vitbn.analysis.speed_sections import critical_section, crossover_section, threshold_section
from vitbn.analysis.template import PAGE, TABLE
from vitbn.analysis.verdict import ClaimResult, judge_claim
from vitbn.plotting import Picture, style
from vitbn.store import atomic
from vitbn.store.run import write_summary


@dataclass(frozen=True)
class ClaimBlock:
    """A claim as the page shows it."""

    id: str
    verdict: str
    statement: str
    source: str
    table: Table
    notes: list[str]
    how: str
    commands: list[str]


def write_report(folders: list[Path]) -> Path:
    """Write the report of one or several studies and return the page's path."""
    runs, warnings = read_studies(folders)
    target = report_folder(folders)
    searches = [search for folder in folders if (search := study_search(folder))]
    arms = [] if searches else group(runs)  # no two trials of a search differ in a placement alone
    target.mkdir(exist_ok=True)
    with style():
        drawn = [picture for search in searches for picture in search_pictures(search)] or pictures(arms)
        for picture in drawn:
            picture.save(target / "figures")
    _forget(target / "figures", {picture.name for picture in drawn})
    write_summary(target, [run.path for run in runs])
    title = "Report: " + ", ".join(Path(folder).resolve().name for folder in folders)
    page = _page(title, _sections(runs, arms, warnings, drawn, searches), _claims(runs), target / "figures")
    atomic.write_text(target / "report.html", page)
    return target / "report.html"


def pictures(arms: list[Arm]) -> list[Picture]:
    """Every picture the runs allow; draw and save them inside `style()`."""
    return [
        *curves.over_epochs(arms),
        *curves.learning_rates(arms),
        *charts.accuracy_against("depth", arms),
        *charts.accuracy_against("lr", arms),
        *charts.heat_maps(arms),
        *charts.paired_differences(arms),
        *charts.confusions(arms),
    ]


def report_folder(folders: list[Path]) -> Path:
    """The study's own folder; for several, a folder of their names beside the first."""
    first = Path(folders[0])
    if len(folders) == 1:
        return first
    return first.resolve().parent / ("report-" + "+".join(Path(folder).resolve().name for folder in folders))


def _sections(
    runs: list[RunRecord], arms: list[Arm], warnings: list[str], drawn: list[Picture], searches: list[dict[str, Any]]
) -> list[Section]:
    def named(*prefixes: str) -> list[Picture]:
        return [picture for picture in drawn if picture.name.startswith(prefixes)]

    curves = ("accuracy", "loss", "learning-rates", "heat-map")
    sections = [
        what_was_run(runs, arms, warnings),
        *(search_section(search, named("search")) for search in searches),
        headline(arms),
        Section("Curves", pictures=named(*curves)),
        paired_section(arms, named("difference")),
        threshold_section(arms),
        crossover_section(arms),
        critical_section(arms),
        confused_section(arms, named("confusion")),
        unstable_section(runs),
        confound_section(arms),
    ]
    return [section for section in sections if section.paragraphs or section.tables or section.pictures]


def _claims(runs: list[RunRecord]) -> list[ClaimBlock]:
    """The claims for which the studies hold at least one value."""
    finished = FinishedRuns(runs)
    results = [judge_claim(claim, finished) for claim in load_claims()]
    return [_block(result) for result in results if any(part.effect.n for part in result.parts)]


def _block(result: ClaimResult) -> ClaimBlock:
    rows = []
    for judged in result.parts:
        part = judged.part
        effect, interval = effect_texts(part, judged.effect)
        rows.append([
            part.id, part.statement, judged.verdict, expectation(part), effect, interval,
            str(judged.effect.n), part.figure or DASH,
        ])  # fmt: skip
    head = ["part", "statement", "verdict", "expected", "effect", "95 % interval", "n", "source's figure"]
    claim = result.claim
    notes = [f"{judged.part.id}: {'; '.join(judged.notes)}." for judged in result.parts if judged.notes]
    figures = f"Figures given: {claim.figures}." if claim.figures else ""
    table = Table(f"Parts of {claim.id}", head, rows, words=(0, 1, 2, 3))
    return ClaimBlock(
        claim.id, result.verdict, claim.statement, claim.source, table,
        [text for text in (figures, claim.note, *notes) if text], f"{result.advice.capitalize()}:", result.commands,
    )  # fmt: skip


def _page(title: str, sections: list[Section], claims: list[ClaimBlock], figures: Path) -> str:
    import jinja2
    from markupsafe import Markup

    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    table = page.from_string(TABLE)

    def badge(text: str) -> Markup | str:
        known = text in (SUPPORTED, REFUTED, INCONCLUSIVE)
        return Markup('<span class="verdict {0}">{0}</span>').format(text) if known else text

    def draw(content: Table) -> Markup:
        return Markup(table.render(table=content, badge=badge))

    def address(picture: Picture) -> str:
        data = (figures / f"{picture.name}.svg").read_bytes()
        return "data:image/svg+xml;base64," + base64.b64encode(data).decode()

    lead = "Computed from the files in the run folders; intervals are 95 % intervals over seeds."
    content: dict[str, Any] = {"title": title, "lead": lead, "sections": sections, "claims": claims}
    return page.from_string(PAGE).render(**content, draw=draw, address=address)


def _forget(figures: Path, current: set[str]) -> None:
    """Remove the pictures of an earlier report that the study no longer gives."""
    for path in [*figures.glob("*.png"), *figures.glob("*.svg")]:
        if path.stem not in current:
            path.unlink()
