import csv
import json
import re
from html.parser import HTMLParser

import pytest

from vitbn.analysis import commands
from vitbn.analysis.arms import group
from vitbn.analysis.records import read_study
from vitbn.analysis.report import pictures
from vitbn.plotting import style


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += f" {data}"

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def reported(tmp_path_factory, write):
    """The report of a small study with everything in it: two rates, two depths, odd ends, still going."""
    study = tmp_path_factory.mktemp("runs") / "article"
    for depth, lr in ((3, 0.003), (4, 0.003), (3, 0.005)):
        for seed in range(3):
            write(study, model="vit", depth=depth, lr=lr, seed=seed, final=0.86 + 0.001 * seed)
            write(study, model="vitbnffn", depth=depth, lr=lr, seed=seed, final=0.93, qkv_bias=True)
    write(study, model="vit", depth=4, lr=0.005, seed=0, status="diverged", values=[0.2, 0.3])
    write(
        study,
        model="vit",
        depth=4,
        lr=0.005,
        seed=1,
        status="failed",
        result={"error": "Trace\nKeyError: <b>"},
    )
    write(study, model="vitbnffn", depth=4, lr=0.005, seed=0, status="running", values=[0.2], qkv_bias=True)
    write(study, model="vit", depth=4, lr=0.005, seed=2, values=[0.1] * 10, result={"label": "stuck"})
    return commands.report([str(study)])[0]


def test_page_says_what_it_must(reported):
    page = Page(reported)
    for text in (
        "19 done, 1 failed, 1 diverged, 1 interrupted",
        "official test images under one fixed augmentation draw",
        "must not be used to choose hyper-parameters",
        "a laptop, 2 threads",
        "torch 2.14.1",
        "1 without a result: drawn",
        "1 of 20 finished runs diverged",
        "1 diverged, not in the mean",
        "KeyError: <b>",
        "configuration model.qkv_bias: False / True",
        "parameters in one arm only: blocks.0.attention.qkv.bias",
        "fig10",
    ):
        assert text in page.text, text
    assert {attrs["id"] for attrs in page.all("section")} == {
        "what-was-run", "accuracy", "curves", "paired-differences", "speed", "crossover", "critical-depth",
        "confused-classes", "divergences", "confounds", "claims", "verdicts", "runs",
    }  # fmt: skip


def test_page_needs_nothing_outside_itself(reported):
    page = Page(reported)
    assert page.all("script") == [{}] and not page.all("link")
    assert all(attrs["src"].startswith("data:image/svg+xml;base64,") for attrs in page.all("img"))
    assert not any("//" in attrs["href"] or attrs["href"].startswith("/") for attrs in page.all("a"))
    assert not re.search(r"url\(|@import", reported.read_text())


def test_page_is_accessible(reported):
    page = Page(reported)
    assert page.all("html") == [{"lang": "en"}] and len(page.all("main")) == len(page.all("h1")) == 1
    assert all(len(attrs["alt"]) > 40 for attrs in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) > 8
    assert len(page.all("figcaption")) == len(page.all("figure")) == len(page.all("img"))
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    addresses = {attrs["href"] for attrs in page.all("a")}
    assert {address[1:] for address in addresses if address.startswith("#")} <= ids
    files = [address for address in addresses if not address.startswith("#")]
    assert len(files) == 22 + 22 + 22 + 21 and all((reported.parent / file).exists() for file in files)


def test_figures_come_as_png_and_svg(reported):
    names = {path.stem for path in (reported.parent / "figures").glob("*.svg")}
    assert names == {path.stem for path in (reported.parent / "figures").glob("*.png")}
    assert names == {
        "accuracy-lr0.003", "accuracy-lr0.005", "loss-lr0.003", "loss-lr0.005", "learning-rates", "heat-map",
        "accuracy-against-depth", "accuracy-against-lr", "difference-ViT-ViTBNFFN", "confusion",
    }  # fmt: skip


def test_summary_has_a_row_per_run(reported):
    rows = list(csv.DictReader((reported.parent / "summary.csv").open()))
    assert len(rows) == 22 and {row["status"] for row in rows} == {"done", "failed", "diverged", "interrupted"}
    (failed,) = (row for row in rows if row["status"] == "failed")
    assert failed["error"] == "KeyError: <b>" and failed["model"] == "ViT" and failed["depth"] == "4"
    done = next(row for row in rows if row["status"] == "done" and row["model"] == "ViTBNFFN")
    assert float(done["val/acc"]) == pytest.approx(0.93) and done["parameters"] == "903148"


def test_a_study_that_has_only_begun(run, study):
    run(status="running", values=[])
    run(seed=1, status="running", values=[0.3])
    study_arms = group(read_study(study))
    with style():
        drawn = pictures(study_arms)
    assert [picture.name for picture in drawn] == ["accuracy", "loss"]
    assert "2 interrupted" in Page(*commands.report([str(study)])).text


def test_nothing_to_draw_draws_nothing(run, study):
    run(status="running", values=[])
    assert pictures(group(read_study(study))) == []


@pytest.mark.slow
def test_several_studies_share_a_report_beside_them(run, study, tmp_path):
    run()
    run(into=study.parent / "other", seed=1)
    (page,) = commands.report([str(study), str(study.parent / "other")])
    assert page == study.parent / "report-article+other" / "report.html"
    assert "2 done" in Page(page).text and "Report: article, other" in Page(page).text


def test_an_earlier_reports_pictures_do_not_stay(run, study):
    run(status="running", values=[0.3])
    old = study / "figures" / "old.png"
    old.parent.mkdir()
    old.touch()
    commands.report([str(study)])
    assert not old.exists()


@pytest.mark.slow
def test_a_study_of_several_data_sets_has_a_page_for_each(run, study):
    run()
    run(data={"name": "folder", "root": "/somewhere/photos"})
    pages = commands.report([str(study)])
    assert [str(page.relative_to(study)) for page in pages] == [
        "report-mnist/report.html", "report-photos/report.html",
    ]  # fmt: skip
    (only,) = commands.report([str(study), "data=photos"])
    assert "Report: article data=photos" in Page(only).text and only.parent.name == "report-data-photos"


@pytest.mark.slow
def test_kept_runs_are_not_written_to_unless_one_says_so(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "results" / "article"
    run(into=kept)
    before = sorted(kept.rglob("*"))
    (page,) = commands.report(["results/article"])
    assert str(page) == "runs/report-article/report.html" and sorted(kept.rglob("*")) == before
    assert "../../results/article/" in page.read_text()
    (page,) = commands.report(["results/article"], out=tmp_path / "elsewhere")
    assert page == tmp_path / "elsewhere" / "report.html" and sorted(kept.rglob("*")) == before


NAMES = ["$1_$", "[red]<b>|", "*bold*\n", "caf\udce9"]


@pytest.mark.slow
def test_names_are_text_in_pictures_and_page(run, study):
    counts = [[5, 1, 1, 1], [2, 5, 0, 0], [0, 2, 5, 0], [3, 0, 0, 5]]
    named = {"pos_emb": "$\\frac$ <i>{x}"}
    for seed in range(2):
        for model in ("vit", "vitbnffn"):
            result = {"classes": NAMES, "confusion": counts}
            run(model=model, seed=seed, result=result, **named)
            run(model=model, seed=seed, result=result)
    (page,) = commands.report([str(study)])
    assert "$1_$ taken for [red]<b>|" in Page(page).text and r"caf\udce9" in Page(page).text
    assert "pos_emb=$\\frac$ <i>{x}" in Page(page).text and "not drawn" not in Page(page).text


def test_a_picture_that_cannot_be_drawn_costs_nothing_else(run, study, monkeypatch):
    run()
    monkeypatch.setattr("vitbn.analysis.charts.confusion", lambda arm: 1 / 0)
    monkeypatch.setattr("vitbn.analysis.sections.confusion", lambda arm: None)
    (page,) = commands.report([str(study)])
    assert "confusions) was not drawn: division by zero" in Page(page).text and Page(page).all("img")


def test_what_a_callback_logged_is_a_curve(run, study):
    folder = run(epochs=2, values=[0.3, 0.4])
    rows = (folder / "metrics.csv").read_text().splitlines()
    table = zip(rows, ("val/f1", "0.5", ""), strict=True)
    (folder / "metrics.csv").write_text("".join(f"{row},{more}\n" for row, more in table))
    with style():
        assert [picture.name for picture in pictures(group(read_study(study)))][2] == "metric-val-f1"


def test_the_page_counts_its_comparisons(reported):
    counted = "3 comparisons were made, 3 of them with an interval, and 3 of these intervals leave 0 out"
    assert counted in " ".join(Page(reported).text.split())


def test_pictures_of_other_origin_stay(run, study, tmp_path):
    run(status="running", values=[0.3])
    theirs = tmp_path / "paper" / "figures" / "mine.svg"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    commands.report([str(study)], out=tmp_path / "paper")
    assert theirs.exists()


@pytest.mark.slow
def test_a_search_beside_a_study_takes_nothing_from_it(run, study, tmp_path):
    for model in ("vit", "vitbnffn"):
        run(model=model)
    search = tmp_path / "runs" / "search"
    folder = run(into=search, lr=0.1)
    trial = {"number": 0, "run": folder.name, "params": {"lr": 0.1}, "value": 0.9}
    content = {"name": "s", "metric": "val/acc", "space": ["lr"], "trials": [trial]}
    (search / "search.json").write_text(json.dumps(content))
    (page,) = commands.report([str(study), str(search)], out=tmp_path / "both")
    text = Page(page).text
    assert "Paired differences" in text and "Search" in text
