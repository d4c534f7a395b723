"""A network from its plain configuration."""

from typing import Any

from torch import nn

from vitbn.errors import InputError
from vitbn.models.init import initialize


def build(config: dict[str, Any], *, seed: int) -> nn.Module:
    """The network `_target_` names, with the other keys as its options and initial weights keyed by `seed`."""
    from hydra.utils import instantiate

    options = {key: value for key, value in config.items() if key != "name"}
    try:
        net = instantiate(options)
    except Exception as error:
        raise InputError(f"model={config['name']}: {error.__cause__ or error}") from error
    initialize(net, seed)
    return net
