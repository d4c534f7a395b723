"""A run on several devices: one process each, every process with its share of every batch.

The processes are started here, not by Lightning: its launchers type the command again, and with it a whole sweep, or
spawn anew for fit and for test.
"""

import logging
import math
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torchmetrics import Metric

from vitbn.store.run import Run
from vitbn.training.outcome import Interruption, Signals

Train = Callable[[Run, Signals], dict[str, Any]]
GRACE_SECONDS = 5.0  # for the other processes to end by themselves when one has ended early


def train_in_processes(train: Train, run: Run, signals: Signals) -> dict[str, Any]:
    """`train` in `trainer.devices` processes; returns what the first returns, raises what the first to fail raises."""
    count = run.config["trainer"]["devices"]
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
    environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(max(1, _cores() // count))
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, signals.deferred():
        left = [Path(folder) / str(rank) for rank in range(count)]
        processes = [
            context.Process(target=_one_process, args=(rank, train, run, environment, left[rank]))
            for rank in range(count)
        ]
        forwarded, failure, deadline = False, None, math.inf
        try:
            for process in processes:
                process.start()
            while (running := [each for each in processes if each.is_alive()]) and time.monotonic() < deadline:
                wait([process.sentinel for process in running], timeout=0.2)
                if failure is None and (failure := _failure(processes, left)):
                    deadline = time.monotonic() + GRACE_SECONDS
                if signals.received and not forwarded:
                    forwarded = True
                    for process in running:
                        process.terminate()
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
        if failure := failure or _failure(processes, left):
            raise failure
        return {} if signals.received else pickle.loads(left[0].read_bytes())


def _failure(processes: Sequence[BaseProcess], left: list[Path]) -> BaseException | None:
    """What ended the first process to fail; one that died goes before those that raised because it was gone.

    What a process has left counts, not its exit code: gloo's threads can abort an interpreter that is being torn down
    (pytorch#179291), and destroying the process group does not end them.
    """
    ended = [rank for rank, process in enumerate(processes) if process.exitcode is not None]
    for rank in sorted(ended, key=lambda rank: left[rank].exists()):
        if not left[rank].exists():
            return RuntimeError(f"process {rank} of the run died ({processes[rank].exitcode})")
        outcome = pickle.loads(left[rank].read_bytes())
        if isinstance(outcome, BaseException):
            return outcome
    return None


def _one_process(rank: int, train: Train, run: Run, environment: dict[str, str], left: Path) -> None:
    """One process of the run: leaves its result, or the exception that ended it, as a file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the parent received it, too, and sends SIGTERM
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.environ |= environment | {"LOCAL_RANK": str(rank)}
    LightningEnvironment().set_global_rank(rank)  # before the strategy does: loggers are made first
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    if rank:
        warnings.simplefilter("ignore")
    else:
        handlers = (logging.StreamHandler(sys.stdout), logging.FileHandler(run.folder / "train.log"))
        logging.basicConfig(handlers=handlers, format="%(message)s")
        logging.getLogger("vitbn").setLevel(logging.INFO)
    signals = Signals()
    outcome: Any = None
    try:
        with signals.handled(signal.SIGTERM):
            outcome = train(run, signals)
    except Interruption:
        pass
    except BaseException as error:
        error.add_note("".join(traceback.format_exception(error)))
        outcome = error
    left.write_bytes(pickle.dumps(outcome))


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class SharedBatchStrategy(DDPStrategy):
    """DistributedDataParallel whose gradients are those of the mean over the whole batch, however unequal the shares.

    A checkpoint in mid-epoch holds the metrics of all processes; a resumed run counts them once.
    """

    def __init__(self) -> None:
        super().__init__(cluster_environment=LightningEnvironment())

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The process's loss, weighted so that the mean over the processes is that of the batch."""
        loss = cast(Tensor, super().training_step(*args, **kwargs))
        images = torch.tensor(len(args[0].labels), dtype=loss.dtype, device=loss.device)
        return loss * (images / self.reduce(images.clone(), reduce_op="mean"))  # type: ignore[operator]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        with _synced(self._persistent_metrics()):
            return {name: value.clone() for name, value in super().lightning_module_state_dict().items()}

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        super().load_model_state_dict(checkpoint, strict)
        if self.global_rank > 0:
            for metric in self._persistent_metrics():
                metric.reset()

    def _persistent_metrics(self) -> list[Metric]:
        assert self.lightning_module is not None
        metrics = (module for module in self.lightning_module.modules() if isinstance(module, Metric))
        return [metric for metric in metrics if metric.state_dict()]


@contextmanager
def _synced(metrics: list[Metric]) -> Iterator[None]:
    for metric in metrics:
        metric.sync()
    try:
        yield
    finally:
        for metric in metrics:
            metric.unsync()
