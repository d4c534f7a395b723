"""torch.compile of the block that a network repeats: one piece of code, made once, for all of its blocks."""

import torch
from torch import nn

WORTHWHILE = 20_000  # blocks times steps, from which a run gains what compiling costs (docs/performance.md)


def repeated_blocks(net: nn.Module) -> list[nn.Module]:
    """The longest list of modules of one class with parameters of the same shapes; empty where there is none."""

    def outline(module: nn.Module) -> tuple[object, ...]:
        return type(module), *((name, parameter.shape) for name, parameter in module.named_parameters())

    lists = [list(module.children()) for module in net.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    alike = [
        blocks
        for blocks in lists
        if len(blocks) > 1
        and any(True for _ in blocks[0].parameters())
        and not isinstance(blocks[0], (nn.ModuleList, nn.ModuleDict))  # which are read, not called
        and len(set(map(outline, blocks))) == 1
    ]
    return max(alike, key=len, default=[])


def pays(net: nn.Module, steps: int) -> bool:
    """Whether a training of so many steps is long enough. Norms do not count: the arms of a comparison agree."""
    return steps * max(1, len(repeated_blocks(net))) >= WORTHWHILE


def compile_blocks(net: nn.Module, *, anew: bool = True) -> None:
    """Compile the repeated blocks when they are first called, or the whole network if it repeats none.

    `anew` forgets the code of this process's earlier runs, which counts towards torch's limit of kinds of a block.
    """
    if anew:
        torch.compiler.reset()
    for module in repeated_blocks(net) or [net]:
        module.compile()
