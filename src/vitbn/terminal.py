"""Lines and tables in the terminal: users' text as it is, no name cut."""

from collections.abc import Iterable, Sequence
from typing import Any


def printable(text: str) -> str:
    """The text with a backslash code for every byte of a file's name that is no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def print_text(line: str) -> None:
    """A line that a narrow terminal may wrap as it likes."""
    from rich.console import Console

    Console().print(printable(line), soft_wrap=True, markup=False, highlight=False)


def terminal_table(columns: Sequence[str], lines: Iterable[Sequence[str]], words: Sequence[str] = ()) -> Any:
    """A table for rich; `words` are columns that read from the left. Where there is little room cells are folded.

    A verdict is not.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in columns:
        table.add_column(
            column, justify="left" if column in words else "right", overflow="fold", no_wrap=column == "verdict"
        )
    for line in lines:
        table.add_row(*(Text(printable(cell)) for cell in line))
    return table


def in_quotes(value: str) -> str:
    """The value as Hydra's grammar reads any text."""
    return value.replace("\\", "\\\\").replace('"', '\\"').join('""')
