import pytest

from vitbn.progress import track


@pytest.mark.parametrize("terminal", [True, False])
def test_the_items_come_one_by_one_with_and_without_a_terminal(terminal, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    monkeypatch.setenv("TERM", "xterm")
    taken = []
    for item in track(iter("abc"), "decoding [odd]", 3):
        taken.append(item)
        if item == "a":
            break
    assert taken == ["a"] and list(track("abc", "decoding [odd]", 3)) == ["a", "b", "c"]
    captured = capsys.readouterr()
    assert captured.out == "" and ("decoding [odd]" in captured.err) is terminal
