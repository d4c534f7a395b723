"""The options of a class that `_target_` names."""

import difflib
import inspect
from collections.abc import Collection
from functools import cache
from typing import Any

import yaml
from hydra.utils import get_object

from vitbn.config.compose import CONF
from vitbn.errors import InputError


def check_options(group: str, config: dict[str, Any], *, given: Collection[str], ours: Collection[str]) -> None:
    """InputError for a class that is not there, or an option that it does not take or lacks.

    `given` are arguments that the training passes, `ours` keys that the class does not see. Imports the class, and
    torch with it, so what a file of conf/ lists is taken as it is.
    """
    target = config["_target_"]
    if any(target == shipped.get("_target_") and set(config) <= {*shipped, *ours, "lr"} for shipped in _shipped(group)):
        return
    try:
        parameters = inspect.signature(get_object(target)).parameters.values()
    except Exception as error:  # whatever importing somebody's module raises
        raise InputError(f"{group}._target_={target}: cannot be had ({' '.join(str(error).split())})") from None
    names = [parameter.name for parameter in parameters if parameter.kind != inspect.Parameter.VAR_KEYWORD]
    choices = [name for name in names if name not in given]
    typed = [key for key in config if key not in ours]
    takes_any = len(names) < len(parameters)
    for key in typed:
        if key not in names and not takes_any:
            close = difflib.get_close_matches(key, choices, n=1)
            hint = f"; did you mean {group}.{close[0]}?" if close else f"; leave it out ('~{group}.{key}')."
            raise InputError(f"{group}.{key}: {target} has no such option{hint} It has {', '.join(choices)}")
    for parameter in parameters:
        needed = parameter.default is parameter.empty and parameter.kind not in (
            inspect.Parameter.VAR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        )
        if needed and parameter.name not in typed and parameter.name not in given:
            raise InputError(f"{group}.{parameter.name}: {target} needs it; type +{group}.{parameter.name}=VALUE")


@cache
def _shipped(group: str) -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text()) for path in (CONF / group).glob("*.yaml")]
