"""Initial weights as a function of the seed and the parameter's name."""

import torch
from torch import nn

from vitbn.rng import key


@torch.no_grad()
def initialize(net: nn.Module, seed: int) -> None:
    """Draw every parameter from its module's own distribution, keyed by its full name.

    Two networks with the same seed start from equal weights wherever names and shapes agree.
    Modules say their distribution in `reset_parameters`, as torch's do.
    """
    with torch.random.fork_rng(devices=[]):
        for prefix, module in net.named_modules():
            own = sorted(module.named_parameters(recurse=False), key=lambda named: named[1].numel())
            drawn = {}
            for number, (name, parameter) in enumerate(own, start=1):
                full = f"{prefix}.{name}" if prefix else name
                if not callable(getattr(module, "reset_parameters", None)):
                    raise TypeError(f"{type(module).__name__} owns {full} but has no reset_parameters")
                torch.manual_seed(key(seed, "init", full))
                module.reset_parameters()
                if number < len(own):  # the next reset draws this one again; the largest comes last and stays
                    drawn[parameter] = parameter.clone()
            for parameter, value in drawn.items():
                parameter.copy_(value)
