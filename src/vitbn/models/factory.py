"""Networks and optimizers from their plain configuration."""

from collections.abc import Callable
from typing import Any

from torch import nn, optim

from vitbn.errors import InputError
from vitbn.models.init import initialize

OptimizerFactory = Callable[..., optim.Optimizer]
NOT_OPTIONS = ("name", "published", "pretrained")  # keys of a model that its constructor does not take


def build(config: dict[str, Any], *, seed: int) -> nn.Module:
    """The network `_target_` names, with the other keys as its options and initial weights keyed by `seed`."""
    options = {key: value for key, value in config.items() if key not in NOT_OPTIONS}
    net = _make(f"model={config['name']}", options)
    initialize(net, seed)
    return net


def make_optimizer(config: dict[str, Any]) -> OptimizerFactory:
    """What turns parameters into the optimizer that `_target_` names."""
    return _make(f"optimizer={config['_target_']}", config)


def _make(key: str, config: dict[str, Any]) -> Any:
    from hydra.utils import instantiate

    try:
        return instantiate(config)
    except Exception as error:
        raise InputError(f"{key}: {error.__cause__ or error}") from error
