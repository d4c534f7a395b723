import os

import pytest
import yaml

from vitbn.errors import InputError
from vitbn.store.yaml_file import MAX_BYTES, read_yaml

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_plain_data_comes_back(tmp_path):
    content = {"model": {"name": "vit", "dim": 64, "norm_eps": 1e-5, "pretrained": None}, "mean": [0.5], "on": True}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    assert read_yaml(tmp_path / "config.yaml") == content


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "aliases are not read"),
        ("a: &a [*a]", "aliases are not read"),
        ("a: {", "not YAML"),
        ("a: \udcff", "not text"),
        ("a: " + "9" * 5000, "not YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not YAML"),
        ("[" * 100_000, "nested too deeply"),
        ("a: " + " " * MAX_BYTES, "bytes, more than"),
        ("a: '${oc.env:HOME}'", "it holds an interpolation"),
        ('"\\x24{a}": 1', "it holds an interpolation"),
        ("- [{a: 2020-01-01}]", "it holds a date"),
    ],
)
def test_anything_else_is_one_line(text, reason, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=reason) as refused:
        read_yaml(path)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


def test_nobody_waits_for_a_fifo(tmp_path):
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(InputError, match="config.yaml: not a regular file"):
        read_yaml(tmp_path / "config.yaml")
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "other.yaml")
