"""The application behind waitress: threads, and limits before the application sees anything."""

import json
import logging
import os
import signal
import socket
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask

from vitbn.serve.app import HEADERS, MAX_BODY, PLAIN, create_app
from vitbn.serve.classifiers import load_classifiers
from vitbn.serve.preprocess import MAX_PICTURE_PIXELS

THREADS = max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2)
CONNECTIONS = 200  # beyond them one that waits is closed for each that comes
PATIENCE = 20  # seconds that a request may take to arrive, and a connection without one may stay
LAST_ANSWERS = 10  # seconds for the requests under way when the server is told to end


class JsonErrorTask(ErrorTask):
    """An error that waitress answers by itself, in the application's form."""

    def execute(self) -> None:
        error = self.request.error
        reason = PLAIN[413] if error.code == 413 else error.body
        headers = [("Content-Type", "application/json"), *HEADERS.items()]
        body = json.dumps({"error": reason}).encode()
        error.to_response = lambda ident: (f"{error.code} {error.reason}", headers, body)
        super().execute()


class Channel(HTTPChannel):
    """A connection, which cannot keep others out by being slow."""

    error_task_class = JsonErrorTask
    begun = 0.0

    def __init__(self, server: Any, sock: socket.socket, addr: Any, adj: Any, map: dict[int, Any]) -> None:
        super().__init__(server, sock, addr, adj, map)
        channels = [channel for channel in map.values() if isinstance(channel, Channel) and not channel.will_close]
        waiting = [channel for channel in channels if channel is not self and not channel.is_answering]
        if len(channels) > CONNECTIONS and waiting:
            min(waiting, key=lambda channel: channel.last_activity).will_close = True

    @property
    def is_answering(self) -> bool:
        """Whether a whole request has come and its answer has not gone."""
        return bool(self.requests) or self.total_outbufs_len > 0

    def received(self, data: bytes) -> bool:
        """Count the time of an unfinished request from its first byte: trickling gains none."""
        if self.request is None:
            self.begun = time.time()
        more = super().received(data)
        if self.request is not None:
            self.last_activity = self.begun
        return more


def run(listener: socket.socket, ckpts: Sequence[str]) -> None:
    """Load the networks, print the address, answer until interrupted."""
    classifiers = load_classifiers(ckpts)
    torch.set_num_threads(1)
    Image.MAX_IMAGE_PIXELS = MAX_PICTURE_PIXELS // 2  # Pillow refuses twice as much, in pictures within pictures too
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of damage: the answer says what matters
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a queue is no fault
    connections: dict[int, Any] = {}
    server = create_server(
        create_app(classifiers), sockets=[listener], map=connections, threads=THREADS, ident=None,
        max_request_body_size=MAX_BODY + 1, channel_timeout=PATIENCE, cleanup_interval=5,
        connection_limit=10 * CONNECTIONS, asyncore_use_poll=True,
    )  # fmt: skip
    server.channel_class = Channel
    host, port = listener.getsockname()
    print(f"{' and '.join(classifier.name for classifier in classifiers)} at http://{host}:{port}/", flush=True)
    _answer(server, connections)


def _answer(server: Any, connections: dict[int, Any]) -> None:
    """Until Ctrl-C; SIGTERM lets the requests under way end."""
    told: list[float] = []

    def end(*_: Any) -> None:
        told.append(time.monotonic())
        server.accepting = False
        server.pull_trigger()

    signal.signal(signal.SIGTERM, end)
    try:
        while not told or (_busy(connections) and time.monotonic() < told[0] + LAST_ANSWERS):
            wasyncore.loop(timeout=1, use_poll=True, map=connections, count=1)
    finally:
        server.task_dispatcher.shutdown()
        wasyncore.close_all(connections)


def _busy(connections: dict[int, Any]) -> bool:
    """Whether a request is arriving or being answered."""
    channels = [channel for channel in connections.values() if isinstance(channel, Channel)]
    return any(channel.is_answering or channel.request is not None for channel in channels)
