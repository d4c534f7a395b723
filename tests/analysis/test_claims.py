import math

import pytest
import yaml

from vitbn.analysis.arms import FinishedRuns
from vitbn.analysis.claims import judge, load_claim, load_claims, region, spell_out
from vitbn.analysis.stats import Interval
from vitbn.analysis.verdict import missing
from vitbn.errors import InputError

EXPECTED = {
    "fig8", "fig9", "fig10", "fig1_3", "critical-depth", "notebook-accuracy", "notebook-loss", "webapp",
    "yao-crash", "yao-on-par", "bn-starts-faster", "bn-ends-behind", "dyt-on-par", "prepbn-on-par",
    "peri-ln-variance", "rbn-gap",
}  # fmt: skip
MINIMAL = {
    "id": "mine",
    "source": "here",
    "statement": "a is ahead",
    "study": "article",
    "arms": {"a": {"model.name": "vit"}, "b": {"model.name": "vitbn"}},
    "smallest_effect": 0.01,
    "train": "model=vit,vitbn",
    "parts": [{"id": "p", "kind": "difference", "a": "a", "b": "b", "metric": "val/acc", "expect": "greater"}],
}


def test_every_claim_of_the_project_is_valid_and_can_be_trained():
    claims = load_claims()
    assert {claim.id for claim in claims} == EXPECTED
    for claim in claims:
        assert claim.seeds >= 3
        for command in missing(claim, FinishedRuns([])):
            assert command.startswith("vitbn train -m experiment=") and "seed=0,1,2" in command


@pytest.mark.parametrize(
    ("claim", "cells"),
    [
        ("fig8", {(d, 0.003) for d in (4, 5, 6, 7)}),
        ("fig9", {(d, 0.005) for d in (1, 2, 3, 4)}),
        ("fig10", {(d, lr) for d in (2, 3, 4) for lr in (0.003, 0.005)}),
    ],
)
def test_the_articles_figures_need_the_articles_runs(claim, cells):
    (found,) = load_claims([claim])
    needs = [cell for part in found.parts for cell in part.needs()]
    assert {(cell["depth"], cell["lr"]) for cell in needs} == cells
    assert {cell["model.name"] for cell in needs} == {"vit", "vitbnffn"}
    assert all(cell["epochs"] == 10 and cell["data.name"] == "mnist" for cell in needs)


def test_ids():
    assert [claim.id for claim in load_claims(["fig9", "fig8"])] == ["fig9", "fig8"]
    assert len(load_claims(["all"])) == len(EXPECTED)
    with pytest.raises(InputError, match="no claim 'fig11'; there are .*fig8"):
        load_claims(["fig11"])


def test_claims_of_the_working_directory_are_added_and_replace_those_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "claims").mkdir()
    mine = write(tmp_path / "claims")
    mine.with_name("fig8.yaml").write_text(mine.read_text().replace("id: mine", "id: fig8"))
    claims = {claim.id: claim for claim in load_claims()}
    assert set(claims) == {*EXPECTED, "mine"} and claims["fig8"].statement == claims["mine"].statement


def test_spell_out():
    assert spell_out({"a": [1, 2], "b": 3}) == [{"a": 1, "b": 3}, {"a": 2, "b": 3}]


def write(folder, change=None, part=None):
    content = MINIMAL | {"parts": [MINIMAL["parts"][0] | (part or {})]} | (change or {})
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def test_a_minimal_claim(tmp_path):
    claim = load_claim(write(tmp_path))
    (part,) = claim.parts
    assert part.a == {"model.name": "vit"} and part.epoch is None and part.smallest_effect == 0.01
    assert missing(claim, FinishedRuns([])) == ["vitbn train -m model=vit,vitbn seed=0,1,2"]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (
            {"metric": "val/accuracy"},
            "metric 'val/accuracy' is none of train/loss, train/acc, val/loss, val/acc",
        ),
        ({"metric": "test/acc", "at": 3}, "metric 'test/acc' is none of"),
        ({"kind": "contrast"}, "kind 'contrast' is none of difference"),
        ({"expect": "bigger"}, "expect 'bigger' is none of greater"),
        ({"expect": "far_greater"}, "needs a margin"),
        ({"a": "c"}, "a 'c' is none of a, b"),
        ({"kind": "level"}, "no 'than'"),
        (
            {"kind": "critical_depth", "expect": "reached", "where": {"lr": 1}},
            "needs a list of depths in where",
        ),
        ({"where": 4}, "where 4 is not a mapping"),
        ({"at": "first"}, "'first' is not a number"),
        ({"at": [1]}, "at [1] is neither last nor an epoch"),
        ({"where": {"depth": []}}, "where depth is empty"),
        ({"steps": [1, 100]}, "steps"),
        ({"kind": "overtakes", "expect": "inside", "metric": "test/acc"}, "metric 'test/acc' is none of train/loss"),
        ({"kind": "overtakes", "expect": "inside", "metric": "sharpness"}, "metric 'sharpness' is none of"),
        (
            {"kind": "diverged_share", "b": None, "than": 0, "metric": None, "steps": [1, 9]},
            "steps=[1, 9] means nothing to kind",
        ),
        ({"kind": "correlation", "b": None, "with": "sharpness", "at": 1}, "at=1 means nothing to kind correlation"),
        ({"kind": "level", "than": 0.5}, "b=b means nothing to kind level; it does to difference"),
        ({"from": {"lr": 0.003}}, "from={'lr': 0.003} means nothing to kind difference"),
        ({"with": "sharpness"}, "with=sharpness means nothing to kind difference"),
        ({"kind": "overtakes", "expect": "inside", "than": 1}, "than=1 means nothing to kind overtakes"),
        ({"b": "a"}, "a and b are the same arm, a"),
        ({"where": {"model.name": "vit"}}, "where says model.name=vit where arm b says vitbn; keep one of them"),
        ({"where": {"model.name": ["vit", "vitbn"]}}, "where says model.name=['vit', 'vitbn'] where arm"),
        ({"expect": "far_greater", "margin": -1}, "margin: -1 must be at least 0"),
        ({"smallest_effect": float("nan")}, "smallest_effect: nan is not a number"),
        ({"smallest_effect": -1}, "smallest_effect: -1 must be at least 0"),
        ({"than": float("inf")}, "than: inf is not a number"),
        ({"at": 0}, "at (last or an epoch): 0 must be at least 1"),
        ({"metric": "train/loss", "steps": ["a", "b"]}, "steps ['a', 'b']; steps is [first, last]"),
        ({"metric": "train/loss", "steps": [9, 1]}, "steps [9, 1]; steps is [first, last]"),
        ({"kind": "critical_depth", "expect": "reached", "where": {"depth": [True, "b"]}}, "needs a list of depths"),
        ({"kind": "critical_depth", "expect": "reached", "where": {"depth": None}}, "needs a list of depths"),
        ({"wehre": {}}, "unknown key wehre"),
        ({"smallest_effect": "small"}, "'small' is not a number"),
    ],
)
def test_a_bad_part_is_named(tmp_path, part, said):
    with pytest.raises(InputError) as error:
        load_claim(write(tmp_path, part=part))
    message = str(error.value)
    assert "mine.yaml, part 1" in message and said in message and "\n" not in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": None}, "no 'source'"),
        ({"id": "yours"}, "must be the file's name"),
        ({"verdict": "yes"}, "unknown key verdict"),
        ({"arms": {"a": 3}}, "a 3 is not a mapping"),
        ({"arms": {"a": None, "b": {"depth": 1}}}, "arms a says nothing"),
        ({"statement": 5}, "statement 5 is not a text"),
        ({"study": 2024}, "study 2024 is not a text"),
        ({"parts": "none"}, "parts 'none' is not a list"),
        ({"seeds": "three"}, "'three' is not a number"),
        ({"seeds": -5}, "seeds: -5 must be at least 1"),
        ({"settings": {"model.name": "vit"}}, "settings says model.name=vit where arm b says vitbn"),
    ],
)
def test_a_bad_claim_is_named(tmp_path, change, said):
    with pytest.raises(InputError) as error:
        load_claim(write(tmp_path, change))
    assert "mine.yaml" in str(error.value) and said in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "- 1"])
def test_not_a_claim_at_all(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match="mine.yaml"):
        load_claim(tmp_path / "mine.yaml")


def test_judge_at_the_edges(part):
    inside = Interval(0.01, 0.0, 0.02, 3, "t")
    assert judge(inside, (0.0, math.inf)) == "INCONCLUSIVE"
    assert judge(Interval(0.0, 0.0, 0.0, 3, "t"), (0.0, math.inf)) == "REFUTED", "equal is not ahead"
    assert judge(Interval(0.0, None, None, 1, ""), (-1, 1)) == "INCONCLUSIVE"
    assert region(part(expect="equal", than=0.5)) == (0.49, 0.51)
