"""The `vitbn` command; what a subcommand needs is imported when it is called."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vitbn.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 2 and one line for bad input."""
    parser = argparse.ArgumentParser(prog="vitbn", description="What belongs to train.py: looking at studies.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_status(commands)
    args = parser.parse_args(argv)
    try:
        return args.call(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _add_status(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("status", help="how far a study is, and how long the rest will take")
    parser.add_argument("study", metavar="NAME", help="a study's name, or the path of its folder")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of the studies (default: runs)")
    parser.set_defaults(call=_status)


def _status(args: argparse.Namespace) -> int:
    from vitbn.training.status import print_status

    named = args.runs / args.study
    print_status(named if named.is_dir() or not Path(args.study).is_dir() else Path(args.study))
    return 0


if __name__ == "__main__":
    sys.exit(main())
