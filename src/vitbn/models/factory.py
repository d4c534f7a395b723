"""Networks and optimizers from their plain configuration."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn, optim

from vitbn.errors import InputError
from vitbn.models.init import initialize
from vitbn.norms.kinds import split
from vitbn.norms.table import import_norm
from vitbn.rng import key

NOT_OPTIONS = ("name", "published", "pretrained")  # keys of a model that its constructor does not take
NOT_OF_LIBRARY = ("published", "pretrained", "_target_")  # the same of a network that another library makes
NOT_OPTIMIZERS = ("_target_", "_partial_", "decay_weights_only")  # the same of an optimizer


def build(config: dict[str, Any], *, seed: int) -> nn.Module:
    """The network `_target_` names, with the other keys as its options and initial weights keyed by `seed`.

    It imports what the configuration names: networks and norms of one's own.
    """
    from hydra.utils import instantiate

    for kind in filter(None, (config.get("placement") or {}).values()):
        name, _ = split(kind)
        if "." in name:
            import_norm(name)
    options = constructor_options(config)
    if "library" in config:
        return _of_library(options, seed)
    try:
        net = instantiate(options | {"_target_": config["_target_"]})
    except Exception as error:
        raise InputError(f"model={config['name']}: {error.__cause__ or error}") from error
    initialize(net, seed)
    return net


def constructor_options(config: dict[str, Any]) -> dict[str, Any]:
    """What the constructor of the network that `_target_` names is given."""
    if "library" not in config:
        return {name: value for name, value in config.items() if name not in (*NOT_OPTIONS, "_target_")}
    given = {name: value for name, value in config.items() if name not in NOT_OF_LIBRARY and value is not None}
    return given | {"placement": {slot: kind for slot, kind in config["placement"].items() if kind is not None}}


def _of_library(options: dict[str, Any], seed: int) -> nn.Module:
    """A network as its library draws it; where its norms stand changes nothing of the other weights."""
    from vitbn.models.libraries import library_network

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "init"))
        try:
            return library_network(**options)
        except ValueError as error:
            raise InputError(f"model={options['library']} model.name={options['name']}: {error}") from error


def make_optimizer(config: dict[str, Any], lr: float) -> Callable[[nn.Module], optim.Optimizer]:
    """What makes a network's optimizer, the class that `_target_` names with the other keys as its options.

    With `decay_weights_only`, weight decay leaves norms, biases, positions and the class token alone.
    """
    from hydra.utils import get_object

    target = config["_target_"]
    options = {key: value for key, value in config.items() if key not in NOT_OPTIMIZERS} | {"lr": lr}

    def make(net: nn.Module) -> optim.Optimizer:
        only = bool(config.get("decay_weights_only"))
        try:
            optimizer = get_object(target)(decay_groups(net) if only else net.parameters(), **options)
        except Exception as error:
            raise InputError(f"optimizer._target_={target}: {error}") from error
        if not isinstance(optimizer, optim.Optimizer):
            raise InputError(f"optimizer._target_={target}: is not an optimizer")
        if only and "weight_decay" not in optimizer.defaults:
            raise InputError(f"optimizer.decay_weights_only=true: {target} has no weight decay")
        return optimizer

    return make


def decay_groups(net: nn.Module) -> list[dict[str, Any]]:
    """The parameters in two groups: the weights of linear and convolutional layers, and the others without decay."""
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in net.named_parameters():
        groups[name.endswith("weight") and parameter.ndim > 1].append(parameter)
    exempt, weights = groups
    return [{"params": weights}, {"params": exempt, "weight_decay": 0.0}]
