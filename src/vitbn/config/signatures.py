"""What a class takes, read from its source file: importing torch to look at a constructor would take seconds."""

import ast
import difflib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vitbn.errors import InputError


@dataclass(frozen=True)
class Signature:
    """Names that a constructor takes; `required` are those without a default, `open` says that it takes any other."""

    names: tuple[str, ...]
    required: tuple[str, ...]
    open: bool


def check_options(group: str, config: dict[str, Any], *, given: Collection[str], ours: Collection[str]) -> None:
    """InputError for a class that is not there, or an option that it does not take or lacks.

    `given` are arguments that the training passes, `ours` keys that the class does not see. A class whose source
    cannot be followed is left to the training, which says the same when it makes it.
    """
    target = config["_target_"]
    signature = signature_of(target, f"{group}._target_={target}")
    if signature is None:
        return
    typed = [key for key in config if key not in ours]
    choices = [name for name in signature.names if name not in given]
    for key in typed:
        if key not in signature.names and not signature.open:
            close = difflib.get_close_matches(key, choices, n=1)
            hint = f"; did you mean {group}.{close[0]}?" if close else f"; leave it out ('~{group}.{key}')."
            raise InputError(f"{group}.{key}: {target} has no such option{hint} It has {', '.join(choices)}")
    for name in signature.required:
        if name not in typed and name not in given:
            raise InputError(f"{group}.{name}: {target} needs it; type +{group}.{name}=VALUE")


@cache
def signature_of(target: str, typed: str) -> Signature | None:
    """What the class or function `target` takes; None where its source does not say. InputError if it is not there."""
    module, _, name = target.rpartition(".")
    if not module:
        raise InputError(f"{typed}: must be a class with its module, such as torch.optim.RMSprop")
    if find_spec(module.partition(".")[0]) is None:
        raise InputError(f"{typed}: there is no module {module.partition('.')[0]}")
    definition = _definition(module, name)
    if isinstance(definition, str):
        raise InputError(f"{typed}: {definition}")
    return definition


def _definition(module: str, name: str) -> Signature | str | None:
    """The signature; what is wrong; None if neither can be told."""
    file = _source(module)
    if file is None:
        return None
    tree = ast.parse(file.read_text())
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    known: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            known.add(node.name)
            if node.name == name:
                return _of_function(node, 0) if isinstance(node, ast.FunctionDef) else _of_class(node, module)
        elif isinstance(node, ast.ImportFrom):
            bound = {alias.asname or alias.name: alias.name for alias in node.names}
            known |= set(bound)
            if name in bound:
                base = package.rsplit(".", node.level - 1)[0] if node.level else ""
                return _definition(".".join(filter(None, (base, node.module))), bound[name])
        else:
            known |= {"*"}  # assignments, conditions: what they define is not looked into
    if name in known or "__getattr__" in known or ("*" in known and not module.startswith("torch.")):
        return None
    close = difflib.get_close_matches(name, known, n=1)
    return f"{module} has no {name}" + (f"; did you mean {module}.{close[0]}?" if close else "")


def _source(module: str) -> Path | None:
    """The module's file, found without importing its package."""
    top, *inner = module.split(".")
    spec = find_spec(top)
    if spec is None:
        return None
    if not spec.submodule_search_locations:
        return Path(spec.origin) if not inner and spec.origin and spec.origin.endswith(".py") else None
    path = Path(next(iter(spec.submodule_search_locations)), *inner)
    files = (path.with_name(f"{path.name}.py"), path / "__init__.py") if inner else (path / "__init__.py",)
    return next((file for file in files if file.is_file()), None)


def _of_class(node: ast.ClassDef, module: str) -> Signature | str | None:
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return _of_function(member, 1)
    return _definition(module, node.bases[0].id) if node.bases and isinstance(node.bases[0], ast.Name) else None


def _of_function(node: ast.FunctionDef, skipped: int) -> Signature:
    """The arguments after the first `skipped` ones."""
    positional = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    keywords = [argument.arg for argument in node.args.kwonlyargs]
    required = positional[: len(positional) - len(node.args.defaults)]
    required += [name for name, default in zip(keywords, node.args.kw_defaults, strict=True) if default is None]
    dropped = positional[:skipped]
    names, needed = ([n for n in listed if n not in dropped] for listed in ([*positional, *keywords], required))
    return Signature(tuple(names), tuple(needed), node.args.kwarg is not None)
