"""Networks and optimizers from their plain configuration."""

from collections.abc import Callable
from typing import Any

from torch import nn, optim

from vitbn.errors import InputError
from vitbn.models.init import initialize
from vitbn.models.norms import import_norm

OptimizerFactory = Callable[..., optim.Optimizer]
NOT_OPTIONS = ("name", "published", "pretrained")  # keys of a model that its constructor does not take


def build(config: dict[str, Any], *, seed: int) -> nn.Module:
    """The network `_target_` names, with the other keys as its options and initial weights keyed by `seed`.

    It imports what the configuration names: networks and norms of one's own.
    """
    options = {key: value for key, value in config.items() if key not in NOT_OPTIONS}
    for kind in set((options.get("placement") or {}).values()):
        if "." in kind:
            import_norm(kind)
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
