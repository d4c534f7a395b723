"""The pages of the documentation: links lead somewhere, commands and choices exist, pictures are shown."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

import vitbn
from vitbn.cli import main
from vitbn.config.compose import CONF, compose_config
from vitbn.config.sweep import command_jobs

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("results/*.md")]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """The words of every command in the page's code blocks, without comments and what a pipe leads to."""
    lines = [line for block in BLOCK.findall(page.read_text()) for line in block.replace("\\\n", " ").splitlines()]
    return [
        shlex.split(line.partition(" | ")[0], comments=True)
        for line in lines
        if re.match(r"vitbn |make |python \w", line)
    ]


@pages
def test_every_link_leads_somewhere(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not link.startswith(("http:", "https:")) and not (
            target.exists() and (not anchor or anchor in anchors(target))
        ):
            broken.append(link)
    assert not broken


def test_every_picture_is_shown():
    shown = {
        (page.parent / link).resolve()
        for page in PAGES
        for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text())
    }
    assert set((ROOT / "docs" / "images").rglob("*.png")) <= shown


def test_every_source_stands_in_the_list_of_sources():
    named = r"([A-Z]\w+ et al\.|[A-Z]\w+ (?:and|&) [A-Z]\w+),? \(?((?:19|20)\d\d)\b|\(([A-Z]\w+), ((?:19|20)\d\d)\)"
    files = [*PAGES, *ROOT.glob("claims/*.yaml"), *ROOT.glob("conf/**/*.yaml"), *ROOT.glob("src/vitbn/**/*.py")]
    sources = (ROOT / "docs" / "sources.md").read_text()
    lacking = {
        (file.name, match[0])
        for file in files
        for match in re.finditer(named, file.read_text())
        if f"**{(match[1] or match[3]).replace('&', 'and')}, {match[2] or match[4]}**" not in sources
    }
    assert not lacking


def test_the_article_is_cited_in_the_same_words_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (article,) = citation["references"]
    assert citation["version"] == vitbn.__version__
    for page in ("README.md", "docs/results.md", "docs/sources.md"):
        text = " ".join((ROOT / page).read_text().split())
        assert f"Anindya Dey, *{article['title']}*, {article['journal']}, November {article['year']}" in text


@pages
def test_every_command_and_option_exists(page, capsys):
    for words in commands(page):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), words
        elif words[1] != "train":
            with pytest.raises(SystemExit) as end:
                main([words[1], "--help"])
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            described = capsys.readouterr().out
            assert end.value.code == 0 and not [option for option in options if option not in described], words


@pages
def test_every_choice_of_a_group_exists(page):
    """Of a command that brings no files of its own."""
    for words in commands(page):
        if "--config-dir" in words:
            continue
        for group, _, names in (word.partition("=") for word in words):
            if "/" not in group and (CONF / group).is_dir() and re.fullmatch(r"[\w,]+", names):
                missing = [name for name in names.split(",") if not (CONF / group / f"{name}.yaml").exists()]
                assert not missing, words


@pytest.mark.slow
def test_what_readme_trains_can_be_composed(tmp_path):
    trained = [words[2:] for words in commands(ROOT / "README.md") if words[:2] == ["vitbn", "train"]]
    for words in trained:
        arguments = [word if word != "data.root=photos" else f"data.root={tmp_path}" for word in words if word != "-m"]
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "1.png").touch()
        assert command_jobs(arguments) if "-m" in words else compose_config(arguments)
    assert len(trained) > 3
