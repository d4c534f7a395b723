"""What a network has to compute and to move, counted on shapes alone.

flop   of the matrix products, two per multiply-add, by torch.utils.flop_counter on tensors without data: forward
       and backward, as the network computes them. Norms, softmax, GELU and the optimizer are not counted.
       (Counting on a CPU instead would miss its fused attention.)
bytes  that operators run one by one read and write, and 28 per parameter for Adam (read p, g, m, v; write p, m, v).
       Caches and fused operators move fewer.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

Shape = tuple[int, ...]
Work = dict[str, float]
ADAM_BYTES = 28


class Traffic(TorchDispatchMode):
    """Adds up the bytes of every operator's operands and results, views aside."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, results)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return results


def training_work(net: nn.Module, batch: Shape) -> Work:
    """Of one training step on images of that shape (B, C, S, S)."""
    twin, images = deepcopy(net).to("meta").train(), torch.empty(batch, device="meta")
    work = _count(lambda: twin(images).sum().backward())
    return {**work, "bytes": work["bytes"] + ADAM_BYTES * parameter_count(net)}


def evaluation_work(net: nn.Module, batch: Shape) -> Work:
    """Of one forward pass in evaluation."""
    twin, images = deepcopy(net).to("meta").eval(), torch.empty(batch, device="meta")
    with torch.no_grad():
        return _count(lambda: twin(images))


def epoch_work(net: nn.Module, train: Shape, validation: Shape, batch: int, val_batch: int) -> Work:
    """Of one epoch: training on images of shape `train` (N, C, S, S), then evaluating those of `validation`."""
    total = {"flop": 0.0, "bytes": 0.0}
    for count, shape, size in ((training_work, train, batch), (evaluation_work, validation, val_batch)):
        whole, rest = divmod(shape[0], size)
        for times, images in ((whole, size), (1, rest)):
            if times and images:
                work = count(net, (images, *shape[1:]))
                total = {name: value + times * work[name] for name, value in total.items()}
    return total


def _count(run: Callable[[], object]) -> Work:
    with FlopCounterMode(display=False) as counter, Traffic() as traffic:
        run()
    return {"flop": counter.get_total_flops(), "bytes": traffic.bytes}


def parameter_count(net: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in net.parameters())
