"""One run in several processes, one per device. Imports no torch.

The processes are started here and not by Lightning, whose launcher would type the command again, and with it the
whole sweep. They stand apart from the terminal: a signal reaches each of them once, through this process, and they
end when it ends, however it ends.
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

from vitbn.store.run import Run
from vitbn.training.outcome import Signals

Train = Callable[[Run, Signals], dict[str, Any]]
GRACE = 10.0  # seconds for the others to end by themselves when one has ended early


def spread(train: Train) -> Train:
    """`train` in as many processes as `trainer.devices` says: returns what the first does, raises what any does."""

    def in_processes(run: Run, signals: Signals) -> dict[str, Any]:
        count = run.config["trainer"]["devices"]
        if count == 1:
            return train(run, signals)
        context = multiprocessing.get_context("spawn")
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
        place["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(max(1, _cores() // count))
        members: dict[Connection, BaseProcess] = {}
        try:
            for rank in range(count):
                receiver, sender = context.Pipe(duplex=False)
                member: BaseProcess = context.Process(target=_take_part, args=(train, run, rank, place, sender))
                member.start()
                sender.close()
                members[receiver] = member
            with signals.deferred():
                endings = _endings(members, signals)
            for member in members.values():
                member.join(GRACE)  # they close their files
        finally:
            for member in members.values():
                member.kill()
        return endings[0]

    return in_processes


def _endings(members: dict[Connection, BaseProcess], signals: Signals) -> list[dict[str, Any]]:
    """What every process returned, in order; raises what the first to fail raised."""
    endings: dict[Connection, Any] = {}
    deadline, told = float("inf"), False
    while len(endings) < len(members) and time.monotonic() < deadline:
        for receiver in wait([each for each in members if each not in endings], timeout=0.2):
            endings[receiver] = _ending(receiver, members[receiver])  # type: ignore[arg-type, index]
            if isinstance(endings[receiver], BaseException):  # type: ignore[index]
                deadline = min(deadline, time.monotonic() + GRACE)
        if signals.received and not told:
            told = True
            for member in members.values():
                with suppress(ProcessLookupError):
                    os.kill(cast(int, member.pid), signals.received)
    failures = [ending for ending in endings.values() if isinstance(ending, BaseException)]
    if failures:
        raise failures[0]
    return [endings[receiver] for receiver in members]


def _ending(receiver: Connection, member: BaseProcess) -> Any:
    """What a process returned or raised; RuntimeError if it died without a word."""
    try:
        return receiver.recv()
    except EOFError:
        member.join(GRACE)
        return RuntimeError(f"process {member.pid} of the run ended with exit code {member.exitcode}")


def _take_part(train: Train, run: Run, rank: int, place: dict[str, str], sender: Connection) -> None:
    """The life of one process. Sends what `train` returns or raises, with the traceback as the exception's note."""
    os.setpgid(0, 0)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ |= place | {"LOCAL_RANK": str(rank)}  # before torch is imported, which reads the number of threads
    if rank:
        warnings.simplefilter("ignore")
    else:
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        logging.getLogger("vitbn").setLevel(logging.INFO)
    signals = Signals()
    try:
        with signals.handled():
            ending: Any = train(run, signals)
    except BaseException as error:
        error.add_note("".join(traceback.format_exception(error)))
        ending = error
    try:
        sender.send(ending)
    except Exception:  # some exceptions do not survive the way
        sender.send(RuntimeError(f"{type(ending).__name__}: {ending}"))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
