"""How a run computes: threads, precision, denormal numbers, memory. All but the last decide how sums are rounded."""

import ctypes
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


def cpu_multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16, without which they are slower than float32's."""
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch does not know
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def keep_memory() -> None:
    """Have this process keep the memory that a training step gives back, for the next step.

    glibc returns every large block to the system and clears its pages anew: a tenth of a step at the article's size
    (benchmarks/speed.md). Elsewhere nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 1 << 30)
