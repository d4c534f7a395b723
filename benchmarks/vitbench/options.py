"""The command line of `python benchmarks/bench.py`. Imports no torch."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from vitbn.errors import InputError

BENCHMARKS = {
    "train": "an epoch, end to end: data, training, validation, logging",
    "infer": "time per image at batch 1, 100 and 1000",
    "data": "an epoch of augmented batches, without a network",
    "growth": "how the time of an epoch grows with depth, batch size, image size and tokens; draws the picture",
    "step": "a training step alone, by network, precision and with --compile",
    "where": "what a training step spends its time on, by operation",
    "start": "from Enter to help, to the message about a wrong value and to the first training step",
}
ROUNDS = {"train": 3, "infer": 5, "data": 3, "growth": 3, "step": 10, "where": 5, "start": 5}
RESULTS = Path(__file__).resolve().parent.with_name("results")


@dataclass(frozen=True)
class Options:
    """What was typed; None or 0 where nothing was, until `with_defaults`."""

    what: str
    quick: bool = False
    data: str | None = None
    depth: int | None = None
    batch_size: int | None = None
    rounds: int = 0
    epochs: int | None = None
    images: int | None = None
    threads: int | None = None
    device: str = "auto"
    arms: str | None = None
    compile: bool = False
    ours: Sequence[str] = ()
    out: Path | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Arguments whose names are the fields of Options."""
    number: dict[str, Any] = {"type": _counting, "metavar": "N"}
    parser.add_argument(
        "what", choices=BENCHMARKS, help="; ".join(f"{name}: {text}" for name, text in BENCHMARKS.items())
    )
    parser.add_argument("--quick", action="store_true", help="tiny: under a minute, on mnist5k, needs no download")
    parser.add_argument("--data", metavar="NAME", help="mnist (default), fashion_mnist or mnist5k")
    parser.add_argument("--depth", **number, help="encoder blocks (default: 6)")
    parser.add_argument("--batch-size", **number, help="training images per step (default: 100)")
    parser.add_argument(
        "--rounds", **number, default=0, help="turns of every arm (default: 3; infer, where and start 5, step 10)"
    )
    parser.add_argument("--epochs", **number, help="epochs of train.py per turn (default: 1; on a GPU 10)")
    parser.add_argument("--images", **number, help="training images of an epoch (default: all)")
    parser.add_argument("--threads", **number, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--arms", metavar="NAME,NAME", help="only these, and the first, to which all are compared")
    parser.add_argument(
        "--compile", action="store_true", help="also with torch.compile; an error if nothing is compiled"
    )
    parser.add_argument(
        "--ours", metavar="KEY=VALUE", nargs="+", default=(), help="further overrides for train.py, e.g. model=vitbn"
    )
    parser.add_argument("--out", type=Path, metavar="PATH", help="JSON file (default: in benchmarks/results)")


def with_defaults(args: argparse.Namespace) -> Options:
    """Options with the defaults filled in that depend on others."""
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    quick: dict[str, Any] = {"data": "mnist5k", "depth": 2, "rounds": 2, "images": 200}
    full = {"data": "mnist", "depth": 6, "rounds": ROUNDS[options.what]}
    defaults: dict[str, Any] = {**full, "batch_size": 100, **(quick if options.quick else {})}
    missing: dict[str, Any] = {key: value for key, value in defaults.items() if not getattr(options, key)}
    return replace(options, **missing)


def select(names: Iterable[str], options: Options) -> list[str]:
    """The arms that were asked for, the first always among them; InputError lists the names."""
    names = list(names)
    if options.arms is None:
        return names
    asked = options.arms.split(",")
    if unknown := [name for name in asked if name not in names]:
        raise InputError(f"--arms {','.join(unknown)}: unknown; choose from {', '.join(names)}")
    return [name for name in names if name in asked or name == names[0]]


def out_path(options: Options, device: str) -> Path:
    """Where the result goes: of a GPU and of a quick run in files of their own."""
    parts = [options.what, *(["cuda"] if device == "cuda" else []), *(["quick"] if options.quick else [])]
    return options.out or RESULTS / f"{'-'.join(parts)}.json"


def _counting(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, at least 1")
    return int(text)
