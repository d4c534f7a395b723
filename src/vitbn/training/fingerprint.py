"""What two runs must share for their difference to mean something, as short hashes."""

import hashlib
import platform
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from vitbn import rng
from vitbn.data.affine import AffineDraws


def digest(*tensors: Tensor) -> str:
    """Twelve hex digits of the tensors' bytes."""
    checksum = hashlib.sha256()
    for tensor in tensors:
        checksum.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return checksum.hexdigest()[:12]


def fingerprint(net: nn.Module, *, seed: int, train_images: int, validation: AffineDraws | None) -> dict[str, Any]:
    """Parameter count, initial weights (all, and each by name), order of the images, validation draw."""
    weights = {name: digest(parameter) for name, parameter in net.named_parameters()}
    draws = () if validation is None else (validation.angle, validation.shift, validation.canvas, validation.offset)
    return {
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "init": digest(*net.parameters()),
        "order": digest(rng.order(seed, 0, train_images)),
        "val": digest(*draws),
        "weights": weights,
    }


def environment(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Versions and hardware."""
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f"{processor()}, {torch.get_num_threads()} threads"
    versions = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a class of its own, which safe loading would refuse
        "lightning": pl.__version__,
    }
    if processes > 1:
        hardware = f"{processes} times {hardware}"
    return {"versions": versions, "hardware": hardware}


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
