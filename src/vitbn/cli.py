"""The `vitbn` command; what a subcommand needs is imported when it is called."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vitbn import __version__
from vitbn.errors import InputError
from vitbn.models.placements import OF_LIBRARIES

if TYPE_CHECKING:
    from vitbn.inference.eval_data import Data

Commands: TypeAlias = Any  # what `add_subparsers` returns, of a class that argparse keeps private


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 2 after one line about bad input, 141 (SIGPIPE) if the reader of the output has gone."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["train"]:
        return _train(argv[1:])
    parser = argparse.ArgumentParser(
        prog="vitbn",
        description="Trainings, reports on their studies, and uses of trained networks.",
    )
    parser.add_argument("--version", action="version", version=f"vitbn {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    adders = (
        _add_train, _add_status, _add_table, _add_report, _add_claims, _add_models, _add_summary, _add_predict,
        _add_transplant, _add_evaluate, _add_recalibrate, _add_export, _add_serve,
    )  # fmt: skip
    for add in adders:
        add(commands)
    if argv[:1] == ["-sc"]:
        return _complete(argv, commands.choices)
    args, more = parser.parse_known_args(argv)
    if more and (not hasattr(args, "words") or any(word.startswith("-") for word in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:  # argparse takes no further words after an option
        args.words += more
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text
    try:
        status = args.call(args)
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (BrokenPipeError, SystemExit) as error:  # rich makes the latter of the former
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer has no reader
        return 128 + signal.SIGPIPE
    except OSError as error:  # a full disk, a folder that cannot be written or read
        if error.strerror is None:
            raise
        print(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror}", file=sys.stderr)
        return 1
    return status


def _add_train(commands: Commands) -> None:
    commands.add_parser("train", help="one run, or with -m a sweep; vitbn train --help lists every key")


def _train(arguments: Sequence[str]) -> int:
    """Hydra reads sys.argv itself."""
    from vitbn.train import main as train

    sys.argv = ["vitbn", *arguments]
    train()
    return 0


def _complete(arguments: Sequence[str], commands: Iterable[str]) -> int:
    """What a shell asks after `eval "$(vitbn train -sc install=bash)"`: commands, or what Hydra knows of `train`."""
    line = os.environ.get("COMP_LINE", "vitbn train ")
    if "train" not in line.split()[1:2]:
        print("\n".join(commands))
        return 0
    os.environ["COMP_LINE"] = line.replace(" train", "", 1)
    return _train(arguments)


def _add_models(commands: Commands) -> None:
    parser = commands.add_parser("models", help="the networks of another library, for vitbn train model=LIBRARY")
    parser.add_argument("library", choices=OF_LIBRARIES)
    parser.add_argument("pattern", nargs="?", default="*", help="only such names, as in 'vit_*' (default: all)")
    parser.set_defaults(call=_models)


def _models(args: argparse.Namespace) -> int:
    from fnmatch import filter as matching

    from vitbn.models.libraries import library_named

    source, package = library_named(args.library)
    if not (names := matching(source.names(package), args.pattern)):
        raise InputError(f"{args.pattern}: no network of {args.library} is called so")
    print("\n".join(names))
    return 0


def _add_status(commands: Commands) -> None:
    parser = commands.add_parser("status", help="how far a study is, and how long the rest will take; or all studies")
    parser.add_argument("study", metavar="NAME", nargs="?", help="a study's name or folder (default: all studies)")
    _add_runs(parser)
    parser.set_defaults(call=_status)


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of the studies (default: runs)")


def _status(args: argparse.Namespace) -> int:
    from vitbn.store.status import print_status, print_studies, study_folder

    if args.study is None:
        print_studies(args.runs)
    else:
        print_status(study_folder(args.study, args.runs))
    return 0


WORDS = "such as data=mnist, seed=0,1 or norm.attn_out=batch: only runs with these values"


def _add_table(commands: Commands) -> None:
    parser = commands.add_parser("table", help="a study's runs, and their means over seeds")
    parser.add_argument("words", metavar="STUDY | KEY=VALUE", nargs="*",
                        help=f"a study's name or folder (default: the latest); {WORDS}")  # fmt: skip
    _add_runs(parser)
    parser.set_defaults(call=_table)


def _table(args: argparse.Namespace) -> int:
    from vitbn.analysis.commands import table

    table(args.words, args.runs)
    return 0


def _add_report(commands: Commands) -> None:
    parser = commands.add_parser("report", help="one offline page of curves, intervals and verdicts for a study")
    parser.add_argument("words", metavar="STUDY | KEY=VALUE", nargs="+",
                        help=f"names or folders of studies, such as runs/article; {WORDS}")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="of the page (default: the study's own, if in runs)")
    _add_runs(parser)
    parser.set_defaults(call=_report)


def _report(args: argparse.Namespace) -> int:
    from vitbn.analysis.commands import report

    for page in report(args.words, args.runs, args.out):
        print(page)
    return 0


def _add_claims(commands: Commands) -> None:
    parser = commands.add_parser("claims", help="what the runs say about the published claims")
    parser.add_argument("ids", metavar="ID", nargs="*", help="claims (default: all of them)")
    parser.add_argument("--run", action="store_true", help="train what is missing first; name claims, or all")
    parser.add_argument("--markdown", action="store_true", help="the verdict table alone, as Markdown")
    parser.add_argument("--runs", type=Path, help="the folder of the studies (default: runs; without runs, results)")
    parser.set_defaults(call=_claims)


def _claims(args: argparse.Namespace) -> int:
    from vitbn.analysis.commands import claims

    return claims(args.ids, args.runs, args.run, args.markdown)


def _add_summary(commands: Commands) -> None:
    parser = commands.add_parser("summary", help="a network's layers with their shapes, parameters and FLOPs")
    parser.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*",
        help="as for vitbn train, such as model=vit_b16; without data= published networks are shown for Imagenette",
    )  # fmt: skip
    parser.set_defaults(call=_summary)


def _summary(args: argparse.Namespace) -> int:
    from vitbn.config import compose as config
    from vitbn.config.checks import check
    from vitbn.config.messages import parse, report_user_errors

    with report_user_errors():
        cfg = config.compose_config(args.overrides)
        if "published" in cfg.model and all(typed.key_or_group != "data" for typed in parse(args.overrides)):
            cfg = config.compose_config([*args.overrides, "data=imagenette"])
        tree = config.to_plain_dict(cfg)
        check(tree, args.overrides)
    from vitbn.inference.model_summary import print_summary

    print_summary(tree["model"])
    return 0


CKPT = "a run's folder, a checkpoint in it, a file or folder of weights, or a hub ID"


def _add_predict(commands: Commands) -> None:
    parser = commands.add_parser("predict", help="the most probable labels of image files")
    parser.add_argument("--ckpt", metavar="PATH", required=True, help=CKPT)
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="image files, or folders of them")
    parser.add_argument("--top", metavar="N", type=int, default=5, help="how many labels (default: 5)")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--csv", action="store_true", help="a row per image and label")
    parser.set_defaults(call=_predict)


def _predict(args: argparse.Namespace) -> int:
    from vitbn.inference.predict import predict_command
    from vitbn.serve.preprocess import as_mnist

    form = "json" if args.json else "csv" if args.csv else "table"
    return predict_command(args.ckpt, args.images, top=args.top, form=form, as_mnist=as_mnist)


def _add_transplant(commands: Commands) -> None:
    parser = commands.add_parser("transplant", help="replace a trained network's LayerNorms by calibrated BatchNorms")
    _add_network(parser)
    parser.add_argument("--images", metavar="N", type=int, default=2000, help="at most so many calibrate, and measure")
    parser.add_argument("--slots", metavar="SLOT", nargs="+", default=[], help="only these (default: all LayerNorms)")
    parser.add_argument("--out", type=Path, default=Path("transplant"), help="folder to write (default: transplant)")
    parser.set_defaults(call=_transplant)


def _transplant(args: argparse.Namespace) -> int:
    data = _data(args)
    from vitbn.inference.transplant_report import transplant_command

    return transplant_command(args.ckpt, data=data, root=args.root, count=args.images, slots=args.slots, out=args.out)


def _add_network(parser: argparse.ArgumentParser) -> None:
    """The options for the network and the images."""
    parser.add_argument("--ckpt", metavar="PATH", required=True, help=CKPT)
    parser.add_argument("--data", metavar="NAME|DIR", help="a data set or a folder of images (default: the run's own)")
    parser.add_argument("--root", type=Path, metavar="PATH", help="where a data set lies (default: $VITBN_DATA)")


def _data(args: argparse.Namespace) -> "Data":
    """A data set's configuration, a folder, or None, as --data names it."""
    from vitbn.config import compose as config
    from vitbn.config.messages import report_user_errors
    from vitbn.data.torchvision_table import DATASETS

    if args.data is None or Path(args.data).is_dir():
        return args.data and Path(args.data)
    names = sorted({path.stem for path in (config.CONF / "data").glob("*.yaml")} - {"folder", "torchvision"})
    if args.data in DATASETS:
        overrides = ["data=torchvision", f"data.dataset={args.data}"]
        overrides += [] if DATASETS[args.data].side else ["data.image_size=64"]  # the network's takes its place
    elif args.data in names:
        overrides = [f"data={args.data}"]
    else:
        raise InputError(f"--data {args.data}: neither a folder nor one of {', '.join([*names, *DATASETS])}")
    root = [] if args.root is None else [f"data.root={args.root}"]
    with report_user_errors():
        return config.to_plain_dict(config.compose_config([*overrides, *root]))


def _add_evaluate(commands: Commands) -> None:
    parser = commands.add_parser("evaluate", help="accuracy, loss, calibration; what BatchNorm's statistics change")
    _add_network(parser)
    parser.add_argument("--statistics", choices=("running", "batch", "recalibrated"), default="running",
                        help="those BatchNorm uses for the main figures (default: running)")  # fmt: skip
    parser.add_argument("--batch-sizes", type=_sizes, metavar="N,N,…",
                        help="for the sensitivity of batch statistics (default: 1,8,64,512, or fewer)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="of the picture (default: evaluation, in the run's)")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON, draw nothing")
    parser.set_defaults(call=_evaluate)


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text}: whole numbers, at least 1, such as 1,8,64")
    return sorted(set(sizes))


def _evaluate(args: argparse.Namespace) -> int:
    data = _data(args)
    from vitbn.inference.evaluate import evaluate

    evaluate(args.ckpt, data=data, root=args.root, statistics=args.statistics, batch_sizes=args.batch_sizes,
             out=args.out, as_json=args.as_json)  # fmt: skip
    return 0


def _add_recalibrate(commands: Commands) -> None:
    parser = commands.add_parser("recalibrate", help="a checkpoint with fresh BatchNorm statistics")
    _add_network(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="(default: recalibrated.ckpt beside the checkpoint)")
    parser.set_defaults(call=_recalibrate)


def _recalibrate(args: argparse.Namespace) -> int:
    data = _data(args)
    from vitbn.inference.recalibrate import recalibrate

    print(recalibrate(args.ckpt, data=data, root=args.root, out=args.out))
    return 0


def _add_export(commands: Commands) -> None:
    parser = commands.add_parser("export", help="one file for use elsewhere, and a card that says what it is")
    _add_network(parser)
    parser.add_argument("--format", choices=("safetensors", "onnx", "torch"), required=True)
    parser.add_argument("--out", type=Path, metavar="FILE", help="(default: export/<run>.<ending> in the run's folder)")
    parser.add_argument("--no-fold", action="store_true", help="keep BatchNorms as they are")
    parser.add_argument("--half", action="store_true", help="safetensors: weights in half precision, half the size")
    parser.add_argument("--opset", type=int, metavar="N", help="onnx: 17 to 20, for older runtimes (default: 20)")
    parser.set_defaults(call=_export)


def _export(args: argparse.Namespace) -> int:
    data, fold = _data(args), not args.no_fold
    from vitbn.inference.export import export

    options = {"data": data, "root": args.root, "out": args.out, "fold": fold, "half": args.half, "opset": args.opset}
    for path in export(args.ckpt, form=args.format, **options):
        print(path)
    return 0


def _add_serve(commands: Commands) -> None:
    parser = commands.add_parser("serve", help="a page that recognises the digit you draw")
    parser.add_argument("--ckpt", metavar="PATH", nargs="+", action="extend", default=[],
                        help=f"{CKPT}; two stand side by side (default: the packaged network)")  # fmt: skip
    parser.add_argument("--port", metavar="N", type=_port, default=8000, help="0 takes any free one (default: 8000)")
    parser.set_defaults(call=_serve)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 0 to 65535")
    return int(text)


def _serve(args: argparse.Namespace) -> int:
    from vitbn.serve.command import serve

    return serve(args.ckpt, args.port)


if __name__ == "__main__":
    sys.exit(main())
