"""`vitbn serve`: what can be wrong is said before anything heavy is imported, then one line with the address."""

import json
import logging
import socket
import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from vitbn.errors import InputError
from vitbn.inference.origin import locate

HOST = "127.0.0.1"
THREADS = 8  # each answers with one thread of torch


def serve(places: Sequence[str], port: int) -> int:
    """Serve one or two networks, by default the packaged one, until interrupted."""
    checked = [locate(place) for place in places] or [packaged()]
    if len(checked) > 2:
        raise InputError(f"--ckpt: {len(checked)} networks; one, or two to stand side by side")
    with bound(port) as listener:
        run(listener, [str(place) for place in checked])
    return 0


def packaged() -> Path:
    """The trained network that comes with vitbn; InputError while there is none."""
    file = Path(str(files("vitbn.serve") / "digits.safetensors"))
    if not file.is_file():
        raise InputError(f"{file.name}: this installation has no trained network; give one with --ckpt")
    return file


def bound(port: int) -> socket.socket:
    """A socket that has the port to itself; 0 takes any that is free."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise InputError(f"--port {port}: {error.strerror}; --port 0 takes any that is free") from None
    return listener


def run(listener: socket.socket, places: Sequence[str]) -> None:
    """Load the networks, print the address, answer."""
    import torch
    from PIL import Image
    from waitress.channel import HTTPChannel
    from waitress.server import create_server
    from waitress.task import ErrorTask

    from vitbn.serve.app import HEADERS, MAX_BODY, TOO_LARGE, create_app
    from vitbn.serve.ink import MAX_PIXELS
    from vitbn.serve.readers import load_readers

    class Refusal(ErrorTask):
        """What waitress refuses before the application sees it, in the application's form."""

        def execute(self) -> None:
            error = self.request.error
            reason = TOO_LARGE if error.code == 413 else error.body
            headers = [("Content-Type", "application/json"), *HEADERS.items()]
            body = json.dumps({"error": reason}).encode()
            error.to_response = lambda ident: (f"{error.code} {error.reason}", headers, body)
            super().execute()

    class Channel(HTTPChannel):
        error_task_class = Refusal

    torch.set_num_threads(1)
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice as much, in pictures within pictures too
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of damage: the answer says what matters
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a queue is no fault
    readers = load_readers(places)
    server = create_server(
        create_app(readers), sockets=[listener], threads=THREADS, max_request_body_size=MAX_BODY + 1, ident=None
    )
    server.channel_class = Channel
    names = " and ".join(reader.name for reader in readers)
    print(f"{names} at http://{HOST}:{listener.getsockname()[1]}/", flush=True)
    server.run()
