"""The application behind waitress: threads, and limits before the application sees anything."""

import json
import logging
import socket
import warnings
from collections.abc import Sequence

import torch
from PIL import Image
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask

from vitbn.serve.app import HEADERS, MAX_BODY, TOO_LARGE, create_app
from vitbn.serve.classifiers import load_classifiers
from vitbn.serve.preprocess import MAX_PICTURE_PIXELS

THREADS = 8  # each answers with one thread of torch


class JsonErrorTask(ErrorTask):
    """An error that waitress answers by itself, in the application's form."""

    def execute(self) -> None:
        error = self.request.error
        reason = TOO_LARGE if error.code == 413 else error.body
        headers = [("Content-Type", "application/json"), *HEADERS.items()]
        body = json.dumps({"error": reason}).encode()
        error.to_response = lambda ident: (f"{error.code} {error.reason}", headers, body)
        super().execute()


class Channel(HTTPChannel):
    """A connection."""

    error_task_class = JsonErrorTask


def run(listener: socket.socket, ckpts: Sequence[str]) -> None:
    """Load the networks, print the address, answer until interrupted."""
    classifiers = load_classifiers(ckpts)
    torch.set_num_threads(1)
    Image.MAX_IMAGE_PIXELS = MAX_PICTURE_PIXELS // 2  # Pillow refuses twice as much, in pictures within pictures too
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of damage: the answer says what matters
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a queue is no fault
    server = create_server(
        create_app(classifiers), sockets=[listener], threads=THREADS, max_request_body_size=MAX_BODY + 1, ident=None
    )
    server.channel_class = Channel
    host, port = listener.getsockname()
    print(f"{' and '.join(classifier.name for classifier in classifiers)} at http://{host}:{port}/", flush=True)
    server.run()
