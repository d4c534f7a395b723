import json
import re
from pathlib import Path

import pytest
from vitbench import table
from vitbench.growth import draw_growth

ROOT = Path(__file__).parents[2]


def arm(name, seconds, ratio, work=None, **figures):
    def three(values):
        return dict(zip(("median", "min", "max"), values, strict=True))

    return {
        "name": name, "what": f"about {name}", "parameters": 1234, "n": 3, "work": work, "ratio": three(ratio),
        "seconds": {**three(seconds), "all": list(seconds)}, "figures": {k: three(v) for k, v in figures.items()},
    }  # fmt: skip


@pytest.fixture
def result():
    fast = arm("ours", (2.0, 1.0, 4.0), (1, 1, 1), {"flop": 4e9, "bytes": 1.0}, **{"val/acc": (0.5, 0.4, 0.6)})
    slow = arm("plain", (5.0, 4.4, 100.0), (2.5, 2, 25), {"flop": 8e9, "bytes": 1.0}, **{"val/acc": (0.25, 0, 1)})
    unit = {"name": "s per epoch", "per": 1.0}
    return {
        "benchmark": "train", "hardware": "A computer", "cores": 2, "load": 0.5, "versions": {"python": "3.11"},
        "conditions": {"depth": 6, "further words": ""}, "peak": {"GFLOP/s": {"float32, highest": 8.0, "bfloat16": 99}},
        "tables": [{"title": "One epoch", "unit": unit, "arms": [fast, slow]}],
    }  # fmt: skip


HEADER = "arm | s per epoch | min–max | time / ours | its min–max | n | arithmetic / ours | val/acc | share of peak"
MARKDOWN = f"""**One epoch**

| {HEADER} | parameters |
| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |
| ours | 2.00 | 1.00–4.00 | 1.00 | 1.00–1.00 | 3 | 1.00 | 50.00% | 25.0% | 1,234 |
| plain | 5.00 | 4.40–100 | 2.50 | 2.00–25.00 | 3 | 2.00 | 25.00% | 20.0% | 1,234 |

- ours: about ours
- plain: about plain
- measured peak of square matrix products, GFLOP/s: 8 (float32, highest), 99 (bfloat16)
- depth 6
- A computer, 2 cores, load average 0.5 at the start
- python 3.11
"""


def test_markdown(result):
    assert table.markdown(result) == MARKDOWN


def test_the_terminal_shows_the_same_cells(result, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    table.show(result)
    shown = capsys.readouterr().out
    for line in MARKDOWN.splitlines()[4:6]:
        assert [cell.strip() for cell in line.split("|")[1:-1]] in [
            [cell.strip() for cell in row.split("│")[1:-1]] for row in shown.splitlines()
        ]
    assert "plain: about plain" in shown and "depth 6" in shown


def test_bandwidth_is_shown_where_it_was_measured(result):
    result["peak"]["GB/s"] = 1e-9
    header, first, _ = table.cells(result, result["tables"][0])
    assert first[header.index("of bandwidth")] == "50.0%"


def test_nothing_known_is_nothing_shown(result):
    del result["peak"]
    for arm in result["tables"][0]["arms"]:
        arm |= {"work": None, "parameters": None}
    header, *_ = table.cells(result, result["tables"][0])
    assert header == ["arm", "s per epoch", "min–max", "time / ours", "its min–max", "n", "val/acc"]


def test_a_result_comes_back_from_its_file_as_it_was(result, tmp_path):
    path = tmp_path / "new" / "train.json"
    table.save(result, path)
    assert json.loads(path.read_text()) == result
    assert table.markdown(json.loads(path.read_text())) == MARKDOWN


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234"), (99.96, "100.0"), (12.34, "12.3"), (2.5, "2.50"), (0.0512, "0.0512")]
)
def test_numbers(value, text):
    assert table.number(value) == text


def test_pages_are_filled_from_the_files(result, tmp_path):
    table.save(result, tmp_path / "train.json")
    page = "before\n<!-- train.json -->\nold\n<!-- end -->\nbetween\n<!-- none.json -->\nstays\n<!-- end -->\n"
    filled = table.filled(page, tmp_path)
    assert filled == (
        f"before\n<!-- train.json -->\n{MARKDOWN}<!-- end -->\nbetween\n"
        "<!-- none.json -->\nNot measured yet.\n<!-- end -->\n"
    )
    assert table.filled(filled, tmp_path) == filled
    (tmp_path / "train.svg").touch()
    assert table.filled(filled, tmp_path) == filled.replace(
        "train.json -->\n", "train.json -->\n![train](results/train.svg)\n\n"
    )


def test_the_picture_shows_what_was_measured_and_what_is_possible(result, tmp_path):
    del result["tables"][0]["arms"][1]["figures"]["val/acc"]
    for arm, name in zip(result["tables"][0]["arms"], ("1", "2"), strict=True):
        arm["name"] = name
    result["tables"][0]["varied"] = "depth"
    path = draw_growth(result, tmp_path, "picture")
    assert path == tmp_path / "picture.svg" and (tmp_path / "picture.png").exists()
    assert path.read_text().count('<g id="axes_') == 1
    again = draw_growth(result, tmp_path / "again", "picture")
    assert again.read_bytes() == path.read_bytes()


def test_the_short_page_has_no_figure_of_its_own():
    rows = re.findall(r"^\|(.*)\|$", (ROOT / "docs" / "performance.md").read_text(), re.MULTILINE)
    figures = [cell.strip() for row in rows for cell in row.split("|") if re.fullmatch(r" *[\d.,]+ *", cell)]
    measured = (ROOT / "benchmarks" / "speed.md").read_text()
    assert len(figures) > 50 and not [figure for figure in figures if f"| {figure} |" not in measured]


def test_the_documentation_says_what_the_results_say():
    page = (ROOT / "benchmarks" / "speed.md").read_text()
    assert table.filled(page, ROOT / "benchmarks" / "results") == page, "run python benchmarks/tables.py"
