"""A result as a table for the terminal and for the documentation, and as a file. Imports no torch."""

import json
import math
import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vitbn.store import atomic

PERCENT = ("val/acc",)


def save(result: dict[str, Any], path: Path) -> None:
    """The result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path, result)


def show(result: dict[str, Any]) -> None:
    """Print the tables, what the arms are and under which conditions they ran."""
    console = Console()
    for table in result["tables"]:
        grid = Table(title=table["title"], title_justify="left", title_style="bold")
        header, *rows = cells(result, table)
        for column in header:
            grid.add_column(column, justify="left" if column == header[0] else "right")
        for row in rows:
            grid.add_row(*row)
        console.print(grid)
    for line in notes(result):
        console.print(line, markup=False, soft_wrap=True, highlight=False)


def markdown(result: dict[str, Any]) -> str:
    """The same tables and lines for a page of documentation."""
    parts = []
    for table in result["tables"]:
        header, *rows = cells(result, table)
        rule = ["---", *["--:"] * (len(header) - 1)]
        lines = "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))
        parts.append(f"**{table['title']}**\n\n{lines}\n")
    return "\n".join([*parts, "\n".join(f"- {line}" for line in notes(result)), ""])


def cells(result: dict[str, Any], table: dict[str, Any]) -> list[list[str]]:
    """The header and a row per arm; columns in which no arm has anything are left out."""
    arms, unit = table["arms"], table["unit"]
    first = f"{table.get('varied', '')} {arms[0]['name']}".strip()
    columns = {
        table.get("varied", "arm"): [arm["name"] for arm in arms],
        unit["name"]: [number(unit["per"] * arm["seconds"]["median"]) for arm in arms],
        "min–max": [_range(arm["seconds"], unit["per"]) for arm in arms],
        f"time / {first}": [f"{arm['ratio']['median']:.2f}" for arm in arms],
        "its min–max": [f"{arm['ratio']['min']:.2f}–{arm['ratio']['max']:.2f}" for arm in arms],
        "n": [str(arm["n"]) for arm in arms],
        f"arithmetic / {first}": [_arithmetic(arm, arms[0]) for arm in arms],
        **{name: [_figure(name, arm) for arm in arms] for name in arms[0]["figures"]},
        "share of peak": [_share(arm, "flop", limits(result)) for arm in arms],
        "of bandwidth": [_share(arm, "bytes", limits(result)) for arm in arms],
        "parameters": [f"{arm['parameters']:,}" if arm["parameters"] else "" for arm in arms],
    }
    shown = {name: values for name, values in columns.items() if any(values)}
    return [list(shown), *(list(row) for row in zip(*shown.values(), strict=True))]


def limits(result: dict[str, Any]) -> dict[str, float]:
    """What the machine can do per second: flop in its fastest float32 setting, and bytes; NaN: not measured."""
    peak = result.get("peak", {})
    rates = [rate for name, rate in peak.get("GFLOP/s", {}).items() if name.startswith("float32")]
    return {"flop": 1e9 * max(rates, default=math.nan), "bytes": 1e9 * peak.get("GB/s", math.nan)}


def notes(result: dict[str, Any]) -> list[str]:
    """What the arms are, conditions, machine, versions: a line each."""
    descriptions = {arm["name"]: arm["what"] for table in result["tables"] for arm in table["arms"]}
    lines = [f"{name}: {what}" for name, what in descriptions.items() if what]
    if "peak" in result:
        rates = ", ".join(f"{rate:,.0f} ({name})" for name, rate in result["peak"]["GFLOP/s"].items())
        bandwidth = f"; copying {result['peak']['GB/s']:,.0f} GB/s" if "GB/s" in result["peak"] else ""
        lines.append(f"measured peak of square matrix products, GFLOP/s: {rates}{bandwidth}")
    lines.append(_pairs(result["conditions"]))
    busy = "" if result["load"] is None else f", load average {result['load']:.1f} at the start"
    lines.append(f"{result['hardware']}, {result['cores']} cores{busy}")
    lines.append(_pairs(result["versions"]))
    return lines


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:#.3g}"


def _figure(name: str, arm: dict[str, Any]) -> str:
    value = arm["figures"][name]["median"]
    return f"{value:.2%}" if name in PERCENT else number(value)


def _range(values: dict[str, float], scale: float) -> str:
    return f"{number(scale * values['min'])}–{number(scale * values['max'])}"


def _arithmetic(arm: dict[str, Any], first: dict[str, Any]) -> str:
    return f"{arm['work']['flop'] / first['work']['flop']:.2f}" if arm["work"] else ""


def _share(arm: dict[str, Any], what: str, limits: dict[str, float]) -> str:
    if arm["work"] is None or math.isnan(limits[what]):
        return ""
    return f"{arm['work'][what] / arm['seconds']['median'] / limits[what]:.1%}"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, ""))


def filled(page: str, results: Path) -> str:
    """The page with each `<!-- NAME.json -->` … `<!-- end -->` holding what that file in `results` says.

    A picture of the same name stands before the tables; a file that is not there is not measured yet.
    """

    def block(match: re.Match[str]) -> str:
        path = results / match[1]
        content = markdown(json.loads(path.read_text())) if path.exists() else "Not measured yet.\n"
        image = path.with_suffix(".svg")
        picture = f"![{path.stem}](results/{image.name})\n\n" if image.exists() else ""
        return f"<!-- {match[1]} -->\n{picture}{content}<!-- end -->"

    return re.sub(r"<!-- (\S+\.json) -->.*?<!-- end -->", block, page, flags=re.DOTALL)
