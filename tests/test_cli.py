import subprocess
import sys

import pytest

from vitbn import cli

PRINTS = "print('x' * 10**6)"
TABLE = "__import__('rich.console').console.Console().print('x' * 10**6)"


@pytest.mark.parametrize("prints", [PRINTS, TABLE, "None"])
def test_a_reader_that_goes_away_ends_a_command_as_it_ends_cat(prints):
    """`vitbn status x | head`, for what is printed at once, by rich, and when the command is over."""
    code = (
        "import sys; from vitbn import cli; cli._status = lambda args: "
        f"print('y') or {prints} or 0; sys.exit(cli.main(['status', 'x']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 141)


def test_other_endings_are_left_alone(monkeypatch):
    monkeypatch.setattr(cli, "_status", lambda args: 3)
    assert cli.main(["status", "x"]) == 3
    monkeypatch.setattr(cli, "_status", lambda args: sys.exit(4))
    with pytest.raises(SystemExit, match="4"):
        cli.main(["status", "x"])
