import csv
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from vitbn.analysis import commands
from vitbn.analysis.arms import group
from vitbn.analysis.charts import most_confused
from vitbn.analysis.records import read_study
from vitbn.analysis.report import pictures
from vitbn.analysis.sections import confound_section, headline, measured_on, unstable_section, what_was_run
from vitbn.analysis.speed_sections import critical_section, crossover_section, threshold_section
from vitbn.errors import InputError
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
    return commands.report([study])


def test_page_says_what_it_must(reported):
    page = Page(reported)
    for text in (
        "19 done, 1 failed, 1 diverged, 1 running",
        "official test images under one fixed augmentation draw",
        "must not be used to choose hyper-parameters",
        "a laptop, 2 threads",
        "torch 2.14.1",
        "1 without a result yet",
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
        "confused-digits", "divergences", "confounds", "claims",
    }  # fmt: skip


def test_page_needs_nothing_outside_itself(reported):
    page = Page(reported)
    assert not page.all("script") and not page.all("link")
    assert all(attrs["src"].startswith("data:image/svg+xml;base64,") for attrs in page.all("img"))
    assert all(attrs["href"].startswith("#") for attrs in page.all("a"))
    assert not re.search(r"url\(|@import", reported.read_text())


def test_page_is_accessible(reported):
    page = Page(reported)
    assert page.all("html") == [{"lang": "en"}] and len(page.all("main")) == len(page.all("h1")) == 1
    assert all(len(attrs["alt"]) > 40 for attrs in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) > 8
    assert len(page.all("figcaption")) == len(page.all("figure")) == len(page.all("img"))
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"][1:] for attrs in page.all("a")} <= ids


def test_figures_come_as_png_and_svg(reported):
    names = {path.stem for path in (reported.parent / "figures").glob("*.svg")}
    assert names == {path.stem for path in (reported.parent / "figures").glob("*.png")}
    assert names == {
        "accuracy-lr0.003", "accuracy-lr0.005", "loss-lr0.003", "loss-lr0.005", "learning-rates", "heat-map",
        "accuracy-against-depth", "accuracy-against-lr", "difference-ViT-ViTBNFFN", "confusion",
    }  # fmt: skip


def test_summary_has_a_row_per_run(reported):
    rows = list(csv.DictReader((reported.parent / "summary.csv").open()))
    assert len(rows) == 22 and {row["status"] for row in rows} == {"done", "failed", "diverged", "running"}
    (failed,) = (row for row in rows if row["status"] == "failed")
    assert failed["error"] == "KeyError: <b>" and failed["model"] == "vit" and failed["depth"] == "4"
    done = next(row for row in rows if row["status"] == "done" and row["model"] == "vitbnffn")
    assert float(done["val/acc"]) == pytest.approx(0.93) and done["parameters"] == "903148"


def test_a_study_that_has_only_begun(run, study):
    run(status="running", values=[])
    run(seed=1, status="running", values=[0.3])
    study_arms = group(read_study(study))
    with style():
        drawn = pictures(study_arms)
    assert [picture.name for picture in drawn] == ["accuracy", "loss"]
    assert "2 running" in Page(commands.report([study])).text


def test_nothing_to_draw_draws_nothing(run, study):
    run(status="running", values=[])
    assert pictures(group(read_study(study))) == []


def test_single_seed_is_said(run, study):
    run()
    arms = group(read_study(study))
    section = what_was_run(read_study(study), arms, [])
    assert any("single seed, so no interval can be given" in text for text in section.paragraphs)
    assert headline(arms).tables[0].rows[0][4] == "90.0 %"
    run(seed=1)
    runs = read_study(study)
    assert not any("single seed" in text for text in what_was_run(runs, group(runs), []).paragraphs)


def test_only_official_test_images_are_called_official(run, study):
    run(data={"name": "mnist5k"})
    runs = read_study(study)
    text = what_was_run(runs, group(runs), []).paragraphs[0]
    assert "the test images of mnist5k under one fixed" in text and "official" not in text


def test_held_out_images_are_said(run, study):
    run(data={"holdout": 5000})
    runs = read_study(study)
    assert "5000 training images that were held out" in what_was_run(runs, group(runs), []).paragraphs[0]


def test_means_leave_out_what_is_not_done(run, study):
    run(seed=0, final=0.8)
    run(seed=1, final=0.9)
    run(seed=2, status="diverged", values=[0.99])
    run(seed=3, status="running", values=[0.99])
    (row,) = headline(group(read_study(study))).tables[0].rows
    assert (
        row[3] == "2"
        and row[4].startswith("85.0 % [")
        and row[6] == "1 diverged, not in the mean; 1 running, not in the mean"
    )


def test_time_to_thresholds(run, study):
    run(seed=0, values=[0.5, 0.91, 0.96], epochs=3)
    run(seed=1, values=[0.5, 0.89, 0.92], epochs=3)
    run(seed=2, values=[0.5, 0.93, 0.98], epochs=3)
    (row,) = threshold_section(group(read_study(study))).tables[0].rows
    assert row[4:] == ["2 ep., 8 s", "3 ep., 13 s (2 of 3)", "not reached (1 of 3)"]


@pytest.mark.parametrize(
    ("curve", "course"),
    [
        ([0.8, 0.85, 0.9], "ViTBNFFN ahead throughout"),
        ([0.5, 0.6, 0.65], "ViT ahead throughout"),
        ([0.5, 0.85, 0.9], "ViTBNFFN overtakes ViT at epoch 2 [2, 2]"),
        ([0.8, 0.65, 0.6], "ViT overtakes ViTBNFFN at epoch 2 [2, 2]"),
        ([0.7, 0.7, 0.7], "neither is ahead at the end"),
    ],
)
def test_crossover(run, study, curve, course):
    for seed in range(2):
        run(model="vit", seed=seed, values=[0.7, 0.7, 0.7], epochs=3)
        run(model="vitbnffn", seed=seed, values=curve, epochs=3)
    (row,) = crossover_section(group(read_study(study))).tables[0].rows
    assert row[-1] == course


def test_critical_depth(run, study):
    for depth, ahead in ((2, -0.02), (3, 0.03), (4, 0.1)):
        for seed in range(2):
            run(model="vit", depth=depth, seed=seed, final=0.8)
            run(model="vitbnffn", depth=depth, seed=seed, final=0.8 + ahead)
    (row,) = critical_section(group(read_study(study))).tables[0].rows
    assert row == ["ViTBNFFN over ViT", "0.003", "2", "2 to 4", "3 [3, 3]"]


def test_clean_pairs_are_said_to_be_clean(run, study):
    run(model="vit")
    run(model="vitbnffn")
    section = confound_section(group(read_study(study)))
    assert "No difference beyond the placement is recorded for ViT / ViTBNFFN (1 pairs)." in section.paragraphs
    assert not section.tables and not unstable_section(read_study(study)).tables


def test_most_confused():
    counts = [[90, 10, 0], [4, 95, 1], [0, 0, 50]]
    assert most_confused(np.array(counts), 2) == [(0, 1, 10, 0.1), (1, 0, 4, 0.04)]
    assert len(most_confused(np.array(counts))) == 3


def test_several_studies_share_a_report_beside_them(run, study, tmp_path):
    run()
    run(into=study.parent / "other", seed=1)
    page = commands.report([study, study.parent / "other"])
    assert page == study.parent / "report-article+other" / "report.html"
    assert "2 done" in Page(page).text and "Report: article, other" in Page(page).text


def test_an_earlier_reports_pictures_do_not_stay(run, study):
    run(status="running", values=[0.3])
    old = study / "figures" / "old.png"
    old.parent.mkdir()
    old.touch()
    commands.report([study])
    assert not old.exists()


def test_report_refuses_bad_folders(study):
    with pytest.raises(InputError, match="name a study"):
        commands.report([])
    with pytest.raises(InputError, match="no such folder"):
        commands.report([study])


def test_reading_and_judging_import_nothing_heavy():
    code = "import vitbn.analysis.commands, sys; print([m for m in sys.modules if m in {0}])"
    heavy = {
        "torch",
        "lightning",
        "pytorch_lightning",
        "hydra",
        "omegaconf",
        "matplotlib",
        "scipy",
        "pandas",
        "jinja2",
    }
    command = [sys.executable, "-c", code.format(heavy)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_what_is_measured_on_what_is_said():
    article = measured_on({"data.name": "mnist", "data.augment": True})
    assert "val/* is measured on the official test images under one fixed augmentation draw" in article
    assert "draw" not in measured_on({"data.name": "mnist", "data.augment": "crop"})
    folder = measured_on({"data.name": "pets", "data.source": "folder", "data.augment": "crop"})
    assert folder.startswith("val/* is measured on the validation images of pets (its test images where it has no")
    held = measured_on({"data.name": "pets", "data.source": "folder", "data.holdout": 5})
    assert "5 training images that were held out; test/* is measured on the test images of pets (its val" in held
