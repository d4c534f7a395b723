"""The machine: what it is, how fast it can multiply matrices and move memory."""

import os
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from vitbench.runner import Stopwatch
from vitbn.errors import InputError
from vitbn.training.fingerprint import environment

PACKAGES = ("torchvision", "vit-pytorch", "timm")
REPEATS = 5
SIDES = {"cpu": (768, 1536), "cuda": (4096, 8192)}  # of the square matrices; the fastest counts
COPIED = 2**31  # bytes, far beyond any cache


def device(name: str) -> torch.device:
    """cpu or cuda; `auto` takes the GPU if there is one. InputError where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA GPU here; use --device cpu")
    return torch.device(name)


def finisher(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done all it was asked to do."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, hardware, threads and how busy the machine was with other things."""
    facts = environment(device)
    for package in PACKAGES:
        try:
            facts["versions"][package] = version(package)
        except PackageNotFoundError:
            continue
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {**facts, "device": device.type, "threads": torch.get_num_threads(), "cores": os.cpu_count(), "load": load}


def peak(device: torch.device) -> dict[str, Any]:
    """GFLOP/s of a square float32 product under each of torch's precisions, the best of some sides and repeats.

    On a GPU also of bfloat16, and the GB/s of a copy (read and written).
    """
    setting = torch.get_float32_matmul_precision()
    rates = {}
    try:
        for precision in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(precision)
            rates[f"float32, {precision}"] = _products(device, torch.float32)
    finally:
        torch.set_float32_matmul_precision(setting)
    if device.type != "cuda":
        return {"GFLOP/s": rates}
    rates["bfloat16"] = _products(device, torch.bfloat16)
    return {"GFLOP/s": rates, "GB/s": _bandwidth(device)}


def faster(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The better of two measurements of the peak, rate by rate: a busy machine only ever lowers them."""
    if not isinstance(one, dict):
        return max(one, other)
    return {name: faster(one[name], other[name]) for name in one}


def _products(device: torch.device, dtype: torch.dtype) -> float:
    rates = []
    for side in SIDES[device.type]:
        a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
        out = torch.empty_like(a)
        rates.append(2e-9 * side**3 / _fastest(partial(torch.mm, a, b, out=out), device))
    return max(rates)


def _bandwidth(device: torch.device) -> float:
    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2e-9 * len(source) / _fastest(lambda: target.copy_(source), device)


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of some repeats."""
    work()
    seconds = []
    for _ in range(REPEATS):
        with Stopwatch(finisher(device), time.perf_counter) as watch:
            work()
        seconds.append(watch.seconds)
    return min(seconds)
