"""`vitbn bench`: settle the options, measure, show, save."""

from argparse import Namespace
from importlib import import_module

import torch

from vitbn.bench import machine, table
from vitbn.bench.options import out_path, settled
from vitbn.bench.picture import draw_growth

MODULES = {"train": "training", "infer": "inference", "data": "loading", "growth": "growth", "start": "start"}


def bench(args: Namespace) -> int:
    """Measure what was asked for, print the tables and save them; exit status 0."""
    options = settled(args)
    device = machine.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    result = {"benchmark": options.what, **machine.describe(device)}
    result |= import_module(f"vitbn.bench.{MODULES[options.what]}").measure(options, device)
    if "peak" in result:  # measured when the arms were ready, and now again
        result["peak"] = machine.faster(result["peak"], machine.peak(device))
    path = out_path(options, device.type)
    table.show(result)
    table.save(result, path)
    if options.what == "growth":
        print(draw_growth(result, path.parent, path.stem))
    print(path)
    return 0
