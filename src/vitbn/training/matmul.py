"""The route of float32 matrix products: the fastest on this machine that is as exact as plain float32.

On some processors torch's own library (MKL) reaches half the speed of oneDNN, which
`torch.set_float32_matmul_precision("medium")` selects. Where the processor has bfloat16 matrix units the same setting
really lowers precision. So the network at hand is timed and held against float64, once per machine.
"""

import copy
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitbn import rng as keyed
from vitbn.store import atomic as durable
from vitbn.training.fingerprint import processor

log = logging.getLogger("vitbn")
PLAIN, OTHER = "highest", "medium"
ROUNDS = 5  # steps timed per route, alternating; the fastest counts
GAIN = 1.1  # below this the routes count as equally fast, so that noise does not decide
ERROR = 2.0  # times the error of plain float32


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Within, numbers below 1e-38 count as zero on a CPU: a processor takes a hundred times as long for them, and the
    attention weights of a network whose softmax has saturated are full of them."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def routed(choice: str | None, net: nn.Module, images: Tensor, device: torch.device) -> Iterator[str]:
    """Within, float32 products take the route of that name, by default the best for `net` on these images."""
    before = torch.get_float32_matmul_precision()
    chosen = choice or best(net, images, device)
    log.info(f"float32 matrix products: {chosen}" + ("" if choice else ", as probed for this network and machine"))
    torch.set_float32_matmul_precision(chosen)
    try:
        yield chosen
    finally:
        torch.set_float32_matmul_precision(before)


def best(net: nn.Module, images: Tensor, device: torch.device) -> str:
    """The fastest route whose error stays within twice plain float32's; remembered per machine and network.

    On a GPU plain float32: its other routes round to TF32, a thousand times the error.
    """
    if device.type != "cpu" or next(net.parameters()).dtype != torch.float32:
        return PLAIN
    known = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitbn" / "matmul"
    record = known / f"{_machine_and_network(net, images)}.json"
    try:
        return str(json.loads(record.read_text())["route"])
    except (OSError, ValueError, KeyError):
        found = probe(net, images)
        try:
            known.mkdir(parents=True, exist_ok=True)
            durable.write_json(record, found)
        except OSError as error:
            log.warning(f"{record}: not remembered ({error.strerror})")
        return str(found["route"])


def probe(net: nn.Module, images: Tensor, clock: Callable[[], float] = time.perf_counter) -> dict[str, str | float]:
    """Which route wins, how many times as fast it is, and its error as a multiple of plain float32's."""
    exact = _gradients(copy.deepcopy(net).double(), images.double())
    seconds, errors = dict.fromkeys((PLAIN, OTHER), float("inf")), {}
    before = torch.get_float32_matmul_precision()
    try:
        for _ in range(ROUNDS):
            for route in seconds:
                torch.set_float32_matmul_precision(route)
                trial, started = copy.deepcopy(net), clock()
                gradients = _gradients(trial, images)
                seconds[route] = min(seconds[route], clock() - started)
                errors[route] = float((gradients.double() - exact).norm())
    finally:
        torch.set_float32_matmul_precision(before)
    gain, error = seconds[PLAIN] / seconds[OTHER], errors[OTHER] / max(errors[PLAIN], 1e-300)
    return {"route": OTHER if gain >= GAIN and error <= ERROR else PLAIN, "gain": gain, "error": error}


def _gradients(net: nn.Module, images: Tensor) -> Tensor:
    """Logits and all gradients of one training step, flat."""
    with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator here, always the same
        torch.manual_seed(0)
        logits = net.train()(images)
    labels = torch.arange(len(images)) % logits.shape[1]
    F.cross_entropy(logits, labels).backward()
    return torch.cat([logits.detach().flatten(), *(p.grad.flatten() for p in net.parameters() if p.grad is not None)])


def _machine_and_network(net: nn.Module, images: Tensor) -> str:
    shapes = [(name, *parameter.shape) for name, parameter in net.named_parameters()]
    key = (processor(), torch.get_num_threads(), torch.__version__, repr(net), shapes, tuple(images.shape))
    return hashlib.sha256(repr(key).encode()).hexdigest()[:16]


def probe_images(batch_size: int, channels: int, side: int) -> Tensor:
    """Random images (B, channels, side, side) to probe with: a batch, or as many as have the pixels of 100 digits."""
    count = min(batch_size, max(2, 100 * 28 * 28 // side**2))
    return torch.rand(count, channels, side, side, generator=keyed.generator("probe"))
