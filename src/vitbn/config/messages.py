"""One clear line for what people typed and Hydra or OmegaConf refused. Imports no torch."""

import difflib
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NoReturn

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import CompactHydraException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from vitbn.config.compose import CONF
from vitbn.errors import InputError, RunFailed, describe
from vitbn.terminal import in_quotes

WORKER_DIED = ("TerminatedWorkerError", "UncompletedJobError")  # of joblib and submitit, which need not be installed
OPTIONAL_GROUPS = ("experiment", "search")
HIDDEN = re.compile("_|(name|library|hydra|published)$")  # keys that nobody types


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Turn bad input into one line on stderr and exit status 2, a failure into 1; other exceptions pass through."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints and exits before its exceptions get here
    try:
        yield
    except (InputError, HydraException, OmegaConfBaseException) as error:
        _exit(2, one_line(error))
    except RunFailed:
        raise SystemExit(1) from None
    except Exception as error:
        if type(error).__name__ in WORKER_DIED:
            _exit(1, "a worker process was killed; the same command goes on from its checkpoint")
        if isinstance(error, ValueError) and _raised_in(error).startswith("hydra."):  # of flags or groups
            _exit(2, one_line(error))
        cause = error.__cause__ if str(error).startswith("Unable to configure handler") else error  # of the log file
        if not isinstance(cause, OSError):
            raise
        _exit(1, describe(cause))


def _exit(status: int, message: str) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(status) from None


def _raised_in(error: BaseException) -> str:
    """The module whose line raised the error."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return "" if step is None else str(step.tb_frame.f_globals.get("__name__"))


def one_line(error: Exception) -> str:
    """What is wrong, where and what to type instead."""
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, error.message)
    if isinstance(error, MissingConfigException) and "/" in (error.missing_cfg_file or ""):
        group, _, value = str(error.missing_cfg_file).rpartition("/")
        choices = error.options or [path.stem for path in (CONF / group).glob("*.yaml")]  # Hydra gives none of a list
        return f"{group}={value}: unknown; choose from {', '.join(sorted(choices))}"
    for inner in _contexts(error):  # what went wrong inside an interpolation says more than where it was used
        if isinstance(inner, InputError):
            return str(inner)
    if line := _bad_group():
        return line
    for inner in _contexts(error):
        if isinstance(inner, MissingMandatoryValue):
            missing = getattr(inner, "full_key", None) or str(inner).partition("\n")[0].rpartition(" ")[2]
            return f"{missing}: has no default; type {missing}=VALUE"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = re.sub(r"\s+", " ", str(cause).partition("\n    full_key")[0]).strip()
    if several := re.search(r"^(?:Ambiguous value for argument|Sweep parameters) '(.*?)'( 1\. | requires )", text):
        return f"{several[1]}: several values; add -m to train a run of each"
    if re.search(r"Could not override '\w+@experiment\.|Key 'experiment' not in 'Schema'", text):
        return f"{_argument('experiment')}: the first line of its file must be '# @package _global_'"
    key = getattr(cause, "full_key", None)
    if not key:
        return text
    if re.search(r"not in struct|^Key .* not in '|^Key .* incompatible with the enum", text):
        return unknown_key(_argument(key), key, getattr(cause, "parent_node", None))
    if expected := re.search(r"expected one of \[(.*)\]", text):
        return f"{_argument(key)}: choose from {expected[1]}"
    return f"{_argument(key)}: {text}"


def _contexts(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__context__


def parse(arguments: Sequence[str]) -> list[Override]:
    """The arguments as Hydra's parser reads them."""
    return [_parsed(argument) for argument in arguments]


@cache  # the jobs of a sweep share most of theirs, and reading one takes a millisecond
def _parsed(argument: str) -> Override:
    (override,) = OverridesParser.create().parse_overrides([argument])  # which says which argument it cannot read
    return override


def _typed() -> Iterator[Override]:
    """The command line's overrides, without what is none."""
    for argument in sys.argv[1:]:
        with suppress(CompactHydraException):
            yield from parse([argument])


def _argument(key: str) -> str:
    """How the key was typed; the key itself where it comes from a file."""
    return next((str(override.input_line) for override in _typed() if override.key_or_group == key), key)


def _unreadable(argument: str, message: str) -> str:
    """What Hydra's parser could not read, and how to quote it."""
    key, equals, value = argument.partition("=")
    if not equals:
        return f"{argument}: must be KEY=VALUE"
    remedy = f"as text: {shlex.quote(f'{key}={in_quotes(value)}')}"
    if function := re.search(r"Unknown function '(\w+)'\s+Available: ([\w,]+)", message):
        return f"{argument}: no function {function[1]}, there are {function[2].replace(',', ', ')}; {remedy}"
    return f"{argument}: the value has characters that need quotes; {remedy}"


def _bad_group() -> str:
    """The line for a group typed with ~ or as something else than a name, empty if there is none."""
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {*OPTIONAL_GROUPS, "hydra"}
    for override in _typed():
        group = override.key_or_group
        if not group:
            return f"{override.input_line}: must be KEY=VALUE"
        typed = override.value()
        values = typed.list if isinstance(typed, ChoiceSweep) else [typed]
        is_a_name = not any(isinstance(value, int | float | None) for value in values)
        if group in groups and (override.is_delete() or not is_a_name):
            choices = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
            return f"{override.input_line}: {group} cannot be left out; choose from {choices}"
    return ""


def unknown_key(typed: str, key: str, known: Any) -> str:
    """The line for a key that does not exist; `known` has the keys that do in its place."""
    parent, _, name = key.rpartition(".")
    siblings = OmegaConf.to_container(known, resolve=False) if OmegaConf.is_config(known) else dict(known or {})
    assert isinstance(siblings, dict)
    line = f"{typed}: unknown key"
    if (CONF / parent / f"{name}.yaml").is_file():  # of a group that may have several choices
        return f"{line}; choose it first: {parent}={name}, or {parent}=[{name},…]"
    if not siblings:
        return line
    names = [str(sibling) for sibling in siblings if not HIDDEN.match(str(sibling))]
    names += [] if parent else OPTIONAL_GROUPS
    prefix = f"{parent}." if parent else ""
    owner = f" of {parent}={siblings['name']}" if siblings.get("name") else ""
    listed = f"keys{owner} are {', '.join(prefix + name for name in names)}"
    places = [*_places(siblings, name)] or [*(_places_in_choices(parent, name) if parent else _places_in_files(name))]
    if places:
        return f"{line}; did you mean {' or '.join(prefix + place for place in places)}?"
    if close := difflib.get_close_matches(name, names, n=1):
        return f"{line}; did you mean {prefix}{close[0]}? The {listed}"
    target = str(siblings.get("library") or siblings.get("_target_") or "vitbn.")
    remedy = "" if target.startswith("vitbn.") else f"; + passes it to {target}: +{typed.lstrip('+')}"
    return f"{line}; the {listed}{remedy}"


def _places(tree: dict[Any, Any], name: str) -> Iterator[str]:
    """The dotted keys below the root whose last part is `name`, but for those that follow another key."""
    for key, value in tree.items():
        if isinstance(value, dict) and key != "hydra":
            if name in value and not str(value[name]).startswith("${"):
                yield f"{key}.{name}"
            yield from (f"{key}.{place}" for place in _places(value, name))


def _places_in_choices(group: str, name: str) -> Iterator[str]:
    """The same below a group of several choices, such as logger, for those that were not made."""
    for path in sorted((CONF / group).glob("*.yaml")):
        tree = yaml.safe_load(path.read_text()) or {}
        if isinstance(tree.get(path.stem), dict):
            yield from (f"{place} of {group}={path.stem}" for place in _places(tree, name))


def _places_in_files(name: str) -> Iterator[str]:
    """The same for the choices that were not made."""
    for path in sorted(CONF.glob("*/*.yaml")):
        if path.parent.name not in OPTIONAL_GROUPS and name in (yaml.safe_load(path.read_text()) or {}):
            yield f"{path.parent.name}.{name} of {path.parent.name}={path.stem}"
