import os

import numpy as np
import pytest

from vitbn.analysis.run_files import checked_result, read_table
from vitbn.errors import InputError
from vitbn.store.config_file import read_config
from vitbn.store.labels import flatten

CONFIG = "model: {name: vit}\ndata:\n  name: mnist\nseed: 0\n"


@pytest.fixture
def file(tmp_path):
    """Write a text into a file and return its path."""

    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}) == {"a.b": 1, "a.c.d": (1, 2), "e": None}


@pytest.mark.parametrize("text", [CONFIG, "{model: {name: vit}, data: {name: mnist}, seed: 0}", f"---\n{CONFIG}"])
def test_a_configuration_is_read_however_it_is_laid_out(file, text):
    assert read_config(file("config.yaml", text)) == {"model.name": "vit", "data.name": "mnist", "seed": 0}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty or not a mapping"),
        ("a: [", "not YAML"),
        ("data: {name: mnist}\nseed: 0\n", "no model.name"),  # cut at the top, or `model: vit`
        ("model: vit\ndata: {name: mnist}\nseed: 0\n", "no model.name"),
        (CONFIG + "lr: fast\n", "lr cannot be 'fast'"),
        (CONFIG.replace("seed: 0", "seed: [0, 1]"), r"seed cannot be \(0, 1\)"),
        (CONFIG.replace("seed: 0", "seed: true"), "seed cannot be True"),
        (CONFIG + "trainer: {devices: two}\n", "trainer.devices cannot be 'two'"),
        (CONFIG.replace("name: mnist", "name: mnist\n  holdout: [[1]]"), "data.holdout cannot be"),
        (CONFIG + "a: &a [*a]\n", "aliases are not read"),
        (CONFIG + "a: &a [1, 1]\nb: [*a, *a]\n", "aliases are not read"),
        (CONFIG + "a: !!python/object/apply:os.getcwd []\n", "not YAML"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named_in_one_line(file, text, reason):
    path = file("config.yaml", text)
    with pytest.raises(InputError, match=reason) as error:
        read_config(path)
    message = str(error.value)
    assert message.count(str(path)) == 1 and message.endswith("rerun=true") and "\n" not in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "broken JSON"),
        ("[" * 100_000, "broken JSON"),
        ("[]", "not a JSON object"),
        ('{"status": 5}', "status cannot be 5"),
        ('{"metrics": [1]}', "metrics cannot be"),
        ('{"metrics": {"val/acc": "abc"}}', "val/acc cannot be 'abc'"),
        ('{"fingerprint": "abc"}', "fingerprint cannot be 'abc'"),
        ('{"fingerprint": {"weights": [1]}}', "weights cannot be"),
        ('{"versions": "2.14"}', "versions cannot be"),
        ('{"versions": {"torch": [1]}}', r"torch cannot be \[1\]"),
        ('{"val_images": "10000"}', "val_images cannot be '10000'"),
        ('{"metrics": {"val/acc": 1%s}}' % ("0" * 320), "val/acc cannot be 1000"),
        (r'{"hardware": "\ud800"}', "broken JSON .*surrogates"),
        ('{"confusion": [[1, 2], [3]]}', "no square table"),
        ('{"confusion": [1]}', "no square table"),
    ],
)
def test_a_result_that_cannot_be_used_is_named_in_one_line(file, text, reason):
    path = file("result.json", text)
    with pytest.raises(InputError, match=reason) as error:
        checked_result(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_no_result_is_empty(tmp_path):
    assert checked_result(tmp_path / "result.json") == {}


def test_a_table_of_numbers(file):
    table, notes = read_table(file("metrics.csv", "epoch,val/acc\n1,0.5\n2,\n"), ended=True)
    assert table["epoch"].tolist() == [1, 2] and table["val/acc"][0] == 0.5 and np.isnan(table["val/acc"][1])
    assert notes == () and read_table(file("empty.csv", ""), ended=True) == ({}, ())


@pytest.mark.parametrize("line", ["x,2", "1", "1,2,3"])
def test_a_bad_line_is_named(file, line):
    with pytest.raises(InputError, match="line 2"):
        read_table(file("metrics.csv", f"epoch,val/acc\n{line}\n1,2\n"), ended=True)


@pytest.mark.parametrize("read", [read_config, checked_result, lambda path: read_table(path, ended=True)])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path, read, make):
    make(tmp_path / "file")
    with pytest.raises(InputError, match="file: not a regular file"):
        read(tmp_path / "file")
