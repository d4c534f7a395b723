"""How float32 numbers are multiplied and rounded while a run trains."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
