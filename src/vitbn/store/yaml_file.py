"""YAML files that anybody may have written: plain data or one line that says what is wrong. Imports no torch."""

from pathlib import Path
from typing import Any

import yaml

from vitbn.errors import InputError
from vitbn.store.text_file import read_text

MAX_BYTES = 200_000  # fifty times the largest config.yaml; parsing as much takes about two seconds


class _Loader(yaml.SafeLoader):
    """Without aliases, by which nine lines stand for more nodes than memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not read", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """Dictionaries, lists, strings and numbers; InputError names a file that is anything else.

    OSError if it cannot be opened.
    """
    return parse_yaml(read_yaml_text(path), str(path))


def read_yaml_text(path: Path) -> str:
    """The text of a regular file of at most MAX_BYTES; InputError for any other."""
    return read_text(path, most=MAX_BYTES)


def parse_yaml(text: str, source: str) -> Any:
    """The same for a text; `source` is named in an InputError."""
    try:
        content = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{source}: not YAML ({' '.join(str(error).split())})") from None
    except RecursionError:
        raise InputError(f"{source}: not YAML (nested too deeply)") from None
    require_plain(content, source)
    return content


def require_plain(tree: Any, source: str) -> None:
    """InputError for what no configuration of a finished run holds: an interpolation, or no plain data."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            require_plain(key, source)
            require_plain(value, source)
    elif isinstance(tree, list):
        for value in tree:
            require_plain(value, source)
    elif isinstance(tree, str):
        if "${" in tree:
            raise InputError(f"{source}: refused, it holds an interpolation ({tree[:60]!r})")
    elif not (tree is None or isinstance(tree, bool | int | float)):
        raise InputError(f"{source}: refused, it holds a {type(tree).__name__}")
