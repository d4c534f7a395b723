"""Speed that was asked for and silently not given is an error: graphs that were not compiled or not replayed."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch._dynamo

from vitbn.errors import InputError


@contextmanager
def demanded(name: str, *, compiled: bool = False, captured: bool = False) -> Iterator[None]:
    """Whatever runs inside must use compiled code, or replay CUDA graphs, or both; InputError names who did not.

    Compiled code of an earlier run in the same process counts: torch keeps it.
    """
    with ExitStack() as stack:
        if compiled:
            # else a network that is compiled again and again runs uncompiled from the ninth time on
            stack.enter_context(torch._dynamo.config.patch(fail_on_recompile_limit_hit=True))
        replays = stack.enter_context(_counted_replays()) if captured else []
        yield
    if compiled and not compiled_graphs():
        raise InputError(f"{name}: asked for torch.compile, but no graph was compiled; look at TORCH_LOGS=dynamo")
    if captured and not replays:
        raise InputError(f"{name}: no CUDA graph was replayed; measure without by --no-capture")


def compiled_graphs() -> int:
    """How many graphs torch has compiled in this process."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


@contextmanager
def _counted_replays() -> Iterator[list[None]]:
    replays: list[None] = []
    replay = torch.cuda.CUDAGraph.replay

    def counted(graph: Any) -> None:
        replays.append(None)
        replay(graph)

    with mock.patch.object(torch.cuda.CUDAGraph, "replay", counted):
        yield replays
