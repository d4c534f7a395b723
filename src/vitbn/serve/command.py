"""`vitbn serve`: arguments are checked before anything heavy is imported; then one line with the address."""

import socket
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from vitbn.errors import InputError
from vitbn.weights.hub import locate

HOST = "127.0.0.1"


def serve(ckpts: Sequence[str], port: int) -> int:
    """Serve one or two networks, by default the packaged one, until interrupted."""
    if len(ckpts) > 2:
        raise InputError(f"--ckpt: {len(ckpts)} networks; one, or two to stand side by side")
    paths = [locate(ckpt) for ckpt in ckpts] or [packaged_weights()]
    with bind(port) as listener, suppress(KeyboardInterrupt):  # waitress sees only those that come while it answers
        from vitbn.serve.server import run

        run(listener, [str(path) for path in paths])
    return 0


def packaged_weights() -> Path:
    """The trained network that comes with vitbn; InputError while there is none."""
    file = Path(str(files("vitbn.serve") / "digits.safetensors"))
    if not file.is_file():
        raise InputError(f"{file.name}: this installation has no trained network; give one with --ckpt")
    return file


def bind(port: int) -> socket.socket:
    """A socket that has the port to itself; 0 takes any that is free."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise InputError(f"--port {port}: {error.strerror}; --port 0 takes any that is free") from None
    return listener
