"""How fast, against what people would use instead.

python benchmarks/bench.py train|infer|data|growth|step|where|start [--quick]
"""

import sys
from argparse import ArgumentParser, Namespace
from importlib import import_module

import torch
from vitbench import machine, table
from vitbench.options import add_options, out_path, with_defaults

from vitbn.errors import InputError


def bench(args: Namespace) -> int:
    """Measure what was asked for, print the tables and save them; exit status 0."""
    options = with_defaults(args)
    device = machine.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    result = {"benchmark": options.what, **machine.describe(device)}
    result |= import_module(f"vitbench.{options.what}").measure(options, device)
    if "peak" in result:  # measured when the arms were ready, and now again
        result["peak"] = machine.faster(result["peak"], machine.peak(device))
    path = out_path(options, device.type)
    table.show(result)
    table.save(result, path)
    if options.what == "growth":
        from vitbench.growth import draw_growth

        print(draw_growth(result, path.parent, path.stem))
    print(path)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Exit status 2 and one line for bad input."""
    parser = ArgumentParser(description=__doc__)
    add_options(parser)
    try:
        return bench(parser.parse_args(argv))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
