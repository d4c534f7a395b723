"""What decides how sums are rounded while a run trains: threads, precision, denormal numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Inside, an operation has so many threads; with None as many as the process was started with."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def float32_arithmetic(matmul_precision: str) -> Iterator[None]:
    """Inside, matrix products have this precision and, on a CPU, numbers below 1e-38 count as zero.

    A processor takes a hundred times as long for such denormal numbers, and the attention weights of a network whose
    softmax has saturated are full of them. Threads that torch starts inside take the setting over.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(matmul_precision)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.set_flush_denormal(False)
