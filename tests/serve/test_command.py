import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from tests.serve.drawings import SEVEN, encoded, line
from vitbn.cli import main
from vitbn.serve import command
from vitbn.serve.server import CONNECTIONS

DIGIT = encoded(line(*SEVEN))


def ask(address, body, **headers):
    try:
        with urlopen(Request(f"{address}predict", data=body, headers=headers)) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        assert error.headers["Content-Type"] == "application/json"
        assert error.headers["X-Content-Type-Options"] == "nosniff"
        return error.code, json.load(error)


@pytest.mark.slow
def test_many_at_once_get_what_one_gets_alone(address, client):
    alone = client.post("/predict", data=DIGIT).json
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: ask(address, DIGIT), range(40)))
    for code, said in answers:
        assert code == 200 and said["seen"] == alone["seen"]
        for found, expected in zip(said["models"], alone["models"], strict=True):
            assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)


def test_the_server_itself_refuses_as_the_application_does(address):
    reason = {"error": "the file is too large; at most 1,000,000 bytes are read"}
    assert ask(address, b"", **{"Content-Length": "1000001"}) == (413, reason)
    assert ask(address, iter([b"\0" * 400_000] * 3), **{"Transfer-Encoding": "chunked"}) == (413, reason)
    assert ask(address, iter([DIGIT[:99], DIGIT[99:]]), **{"Transfer-Encoding": "chunked"})[0] == 200
    code, said = ask(address, b"", **{"X-Long": "x" * 300_000})
    assert code == 431 and list(said) == ["error"]


def connected(address):
    place = urlsplit(address)
    return socket.create_connection((place.hostname, place.port), timeout=30)


def test_unfinished_requests_keep_nobody_out(address):
    with ExitStack() as stack:
        slow = [stack.enter_context(connected(address)) for _ in range(CONNECTIONS + 50)]
        for connection in slow:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Le")
        assert ask(address, DIGIT)[0] == 200
        assert slow[0].recv(1) == b""  # the one that had waited longest was closed


@pytest.mark.slow
def test_sigterm_lets_the_request_under_way_end(two):
    command = [sys.executable, "-m", "vitbn.cli", "serve", "--port", "0", "--ckpt", *two]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        with connected(process.stdout.readline().split()[-1]) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n" % len(DIGIT))
            connection.sendall(b"Expect: 100-continue\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 100")  # so it is under way
            process.terminate()
            connection.sendall(DIGIT)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert process.wait(30) == 0


def refused(capsys, *args):
    assert main(["serve", *args]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    return told


def test_bad_arguments_are_one_line(capsys, monkeypatch, tmp_path, make_weights, two):
    monkeypatch.setattr(command, "files", lambda package: tmp_path)
    assert "digits.safetensors: this installation has no trained network; give one with --ckpt" in refused(capsys)
    assert "nowhere/at/all: does not exist" in refused(capsys, "--ckpt", "nowhere/at/all")
    assert "--ckpt: 3 networks; one, or two" in refused(capsys, "--ckpt", *two, "--ckpt", two[0])
    clothes = str(make_weights(labels=("shirt", "bag", *map(str, range(8)))))
    assert "answers shirt, bag" in refused(capsys, "--port", "0", "--ckpt", clothes)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"--port {port}: Address already in use; --port 0" in refused(capsys, "--port", port, "--ckpt", two[0])
    for port in ("70000", "-1", "http"):
        with pytest.raises(SystemExit):
            main(["serve", "--port", port])
        assert "a whole number from 0 to 65535" in capsys.readouterr().err


def test_other_commands_and_bad_arguments_import_neither_flask_nor_torch():
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('flask', 'waitress', 'torch', 'PIL')))\n"  # importing them fails
        "from vitbn.cli import main\n"
        "sys.exit(main(['serve', '--ckpt', 'nowhere/at/all']) + main(['status', 'nothing']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 4 and "Traceback" not in done.stderr, done.stderr
