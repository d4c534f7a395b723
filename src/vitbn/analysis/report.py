"""report.html, figures/ and summary.csv from run folders; works while the study is still going."""

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from vitbn import __version__
from vitbn.analysis import charts, curves
from vitbn.analysis.arms import Arm, FinishedRuns, group
from vitbn.analysis.claims import INCONCLUSIVE, NOT_RUN, REFUTED, SUPPORTED, load_claims
from vitbn.analysis.filters import fitting
from vitbn.analysis.formatting import DASH, NUMBER_COLUMNS, expectation, result_texts
from vitbn.analysis.looks import LOOKS, look_level
from vitbn.analysis.records import RunRecord, by_data, read_studies
from vitbn.analysis.search_sections import search_pictures, search_section
from vitbn.analysis.sections import (
    Section,
    Table,
    confound_section,
    confused_section,
    headline,
    paired_section,
    runs_section,
    tabled,
    unstable_section,
    what_was_run,
)
from vitbn.analysis.speed_sections import critical_section, crossover_section, threshold_section
from vitbn.analysis.table import write_summary
from vitbn.analysis.template import PAGE, SCRIPT, STYLE, TABLE
from vitbn.analysis.verdict import ClaimResult, judge_claim
from vitbn.analysis.why import why_pictures, why_section
from vitbn.errors import describe
from vitbn.plotting import Picture, slug, style
from vitbn.store import atomic
from vitbn.store.search import read_search
from vitbn.terminal import printable

KEPT = "results"  # the folder of studies that are kept


@dataclass(frozen=True)
class ClaimBlock:
    """A claim as the page shows it."""

    id: str
    verdict: str
    statement: str
    parts: str  # how many with which verdict
    source: str
    table: Table
    notes: list[str]
    how: str
    commands: list[str]


def write_reports(folders: Sequence[Path], filters: Sequence[str] = (), out: Path | None = None) -> list[Path]:
    """Write the report of one or several studies, a page per data set; the paths of the pages."""
    runs, warnings = read_studies(folders)
    unreadable = [run for run in runs if run.status == "unreadable"]
    chosen = fitting({run.path: run.config for run in runs if run.status != "unreadable"}, filters)
    of_data = by_data(run for run in runs if run.path in chosen)
    base = report_folder(folders) if out is None else out
    if filters and out is None:
        base /= slug("report", *filters)
    pages = []
    for data, members in of_data.items():
        target = base if len(of_data) == 1 else base / slug("report", data)
        title = " ".join(["Report:", ", ".join(folder.resolve().name for folder in folders), *filters])
        title += f", {data}" if len(of_data) > 1 else ""
        own = out is None  # where pictures of any other origin do not lie
        pages.append(_write(target, title, [*members, *unreadable], list(warnings), list(folders), own))
    return pages


def _write(
    target: Path, title: str, runs: list[RunRecord], warnings: list[str], folders: list[Path], own: bool
) -> Path:
    """One page; a picture that cannot be drawn is a warning. An `own` folder has no other pictures than these."""
    found = {folder: search for folder in folders if (search := read_search(folder))}
    searches = [search for folder, search in found.items() if any(run.path.parent == folder for run in runs)]
    arms = group(run for run in runs if run.path.parent not in found)  # no two trials differ in a placement alone
    target.mkdir(parents=True, exist_ok=True)
    drawn, wide, narrow = [], {}, {}
    with style():
        for picture in pictures(arms, searches, warnings):
            try:
                picture.save(target / "figures")
                wide[picture.name] = _data_address((target / "figures" / f"{picture.name}.svg").read_bytes())
                drawn.append(picture)
            except (ValueError, RuntimeError, UnicodeError) as error:
                warnings.append(f"figure {picture.name}: not drawn: {describe(error)}")
    with style(narrow=True):
        for picture in pictures(arms, searches, []):
            with suppress(ValueError, RuntimeError, UnicodeError):
                narrow[picture.name] = _data_address(picture.svg())
    if own:
        _forget(target / "figures", {picture.name for picture in drawn})
    write_summary(target, {run.path: run.config for run in runs})
    claims = _claims(runs)
    page = _page(title, _sections(runs, arms, claims, warnings, drawn, searches, target), claims, wide, narrow)
    atomic.write_text(target / "report.html", printable(page))
    return target / "report.html"


def pictures(
    arms: list[Arm], searches: Sequence[dict[str, Any]] = (), warnings: list[str] | None = None
) -> list[Picture]:
    """Every picture the runs allow; draw and save them inside `style()`. What fails is told in `warnings`."""
    drawers: list[Callable[[], list[Picture]]] = [
        *(partial(search_pictures, search) for search in searches),
        partial(curves.over_epochs, arms),
        partial(curves.learning_rates, arms),
        partial(charts.accuracy_against, "depth", arms),
        partial(charts.accuracy_against, "lr", arms),
        partial(charts.heat_maps, arms),
        partial(charts.paired_differences, arms),
        partial(charts.confusions, arms),
        partial(why_pictures, arms),
    ]
    drawn: list[Picture] = []
    for drawer in drawers:
        try:
            drawn += drawer()
        except Exception as error:  # a picture never costs the report
            if warnings is not None:
                warnings.append(f"a picture ({drawer.func.__name__}) was not drawn: {describe(error)}")  # type: ignore[attr-defined]
    return drawn


def report_folder(folders: Sequence[Path]) -> Path:
    """The study's own folder; for several, a folder of their names beside the first.

    For kept studies (results/) a folder below runs/: what is kept is not written to unless one asks for it.
    """
    first = Path(folders[0]).resolve()
    name = "report-" + "+".join(Path(folder).resolve().name for folder in folders)
    if first.parent.name == KEPT:
        return Path("runs") / name
    return Path(folders[0]) if len(folders) == 1 else Path(folders[0]).parent / name


def _sections(
    runs: list[RunRecord], arms: list[Arm], claims: list[ClaimBlock], warnings: list[str], drawn: list[Picture],
    searches: list[dict[str, Any]], target: Path,
) -> list[Section]:  # fmt: skip
    def named(*prefixes: str) -> list[Picture]:
        return [picture for picture in drawn if picture.name.startswith(prefixes)]

    curves = ("accuracy", "loss", "learning-rates", "heat-map")
    sections = [
        _verdicts(claims),
        headline(arms),
        *(search_section(search, named("search")) for search in searches),
        Section("Curves", pictures=named(*curves)),
        Section("Further metrics", pictures=named("metric-")),
        paired_section(arms, named("difference")),
        threshold_section(arms),
        crossover_section(arms),
        critical_section(arms),
        why_section(runs, named("why")),
        confused_section(arms, named("confusion")),
        unstable_section(runs),
        confound_section(arms),
        what_was_run(runs, arms, warnings),
        runs_section(runs, target),
    ]
    return [section for section in sections if section.paragraphs or section.tables or section.pictures]


def _verdicts(claims: list[ClaimBlock]) -> Section:
    rows = [[claim.id, claim.verdict, claim.statement, claim.parts] for claim in claims]
    text = (
        f"A statement allows a region of effects, and is judged at {', '.join(map(str, LOOKS[:-1]))} and {LOOKS[-1]} "
        f"seeds. The {100 * look_level():g} % interval of the seeds at the last of these looks wholly inside it: "
        "SUPPORTED; wholly outside: REFUTED; across its edge, or no look yet: INCONCLUSIVE; no runs: NOT RUN. A claim "
        "on the edge is decided in at most 5 % of studies, all looks together. A claim is supported when every "
        "part is, and refuted when one part is; more than two parts share the chance to err."
    )
    table = Table(
        "What these runs say of published claims", ["claim", "verdict", "statement", "parts"], rows, (0, 1, 2, 3)
    )
    return tabled("Verdicts", text, table)


def _claims(runs: list[RunRecord]) -> list[ClaimBlock]:
    """The claims for which the studies hold at least one value."""
    finished = FinishedRuns(runs)
    results = [judge_claim(claim, finished) for claim in load_claims()]
    return [_block(result) for result in results if any(part.effect.n for part in result.parts)]


def _block(result: ClaimResult) -> ClaimBlock:
    rows = []
    for judged in result.parts:
        part = judged.part
        cells = (part.id, part.statement, judged.verdict, expectation(part), *result_texts(judged))
        rows.append([*cells, part.figure or DASH])
    head = ["part", "statement", "verdict", "expected", *NUMBER_COLUMNS, "source's figure"]
    claim = result.claim
    notes = [f"{judged.part.id}: {'; '.join(judged.notes)}." for judged in result.parts if judged.notes]
    figures = f"Figures given: {claim.figures}." if claim.figures else ""
    table = Table(f"Parts of {claim.id}", head, rows, words=(0, 1, 2, 3))
    counts = Counter(judged.verdict for judged in result.parts)
    parts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return ClaimBlock(
        claim.id, result.verdict, claim.statement, parts, claim.source, table,
        [text for text in (figures, claim.note, *notes, result.sharing) if text], f"{result.advice.capitalize()}:",
        result.commands,
    )  # fmt: skip


def _page(
    title: str, sections: list[Section], claims: list[ClaimBlock], wide: dict[str, str], narrow: dict[str, str]
) -> str:
    import jinja2
    from markupsafe import Markup

    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    table = page.from_string(TABLE)

    def badge(text: str) -> Markup | str:
        known = text in (SUPPORTED, REFUTED, INCONCLUSIVE, NOT_RUN)
        return Markup('<span class="verdict {}">{}</span>').format(text.replace(" ", "-"), text) if known else text

    def draw(content: Table) -> Markup:
        return Markup(table.render(table=content, badge=badge))

    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    lead = (
        f"Computed from the files in the run folders on {made} by vitbn {__version__}; "
        "intervals are 95 % intervals over seeds, but for those of verdicts. A click on a column's head sorts a table."
    )
    content: dict[str, Any] = {
        "title": title, "lead": lead, "sections": sections, "claims": claims, "wide": wide, "narrow": narrow,
        "style": Markup(STYLE), "script": Markup(SCRIPT),
        "script_hash": base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
    }  # fmt: skip
    return page.from_string(PAGE).render(**content, draw=draw, badge=badge)


def _data_address(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def _forget(figures: Path, current: set[str]) -> None:
    """Remove the pictures of an earlier report that the study no longer gives."""
    for path in [*figures.glob("*.png"), *figures.glob("*.svg")]:
        if path.stem not in current:
            path.unlink()
