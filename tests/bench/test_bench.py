import json
import sys

import pytest
import torch
from bench import main
from vitbench import growth, start
from vitbench import infer as inference

from vitbn.data import sources
from vitbn.errors import InputError

pytestmark = pytest.mark.slow
compile_fully = torch.nn.Module.compile
TRAIN = ["ours", "ours-bf16", "ours-no-logger", "plain", "plain-tuned", "timm", "timm-own-heads", "lightning"]


@pytest.fixture
def bench(tmp_path, as_mnist5k, monkeypatch, small):
    """Run `python benchmarks/bench.py` with tiny networks; its exit status, and what it saved."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words):
        out = tmp_path / "result.json"
        options = ["--quick", "--rounds", "1", "--depth", "1", "--out", str(out), "--ours", *small]
        status = main([*words, *options])
        return status, json.loads(out.read_text()) if out.exists() else None

    return run


def names(result, table=0):
    return [arm["name"] for arm in result["tables"][table]["arms"]]


def test_train_runs_every_arm(bench, capsys):
    status, result = bench("train", "--batch-size", "20")
    assert status == 0 and names(result) == TRAIN
    ours, *_, lightning = result["tables"][0]["arms"]
    assert ours["work"]["flop"] > 0 and ours["figures"].keys() == lightning["figures"].keys() and ours["n"] == 1
    assert result["conditions"]["training images"] == 40 and result["conditions"]["depth"] == 1
    assert {"torch", "torchvision", "timm", "vit-pytorch"} <= set(result["versions"])
    out = capsys.readouterr().out
    assert "│ timm-own-heads" in out and "round 1/1  plain: " in out


def test_arms_can_be_chosen_and_the_first_is_always_there(bench):
    _, result = bench("data", "--arms", "workers-1")
    assert names(result) == ["ours", "workers-1"]


def test_infer_has_a_table_per_batch_size(bench, monkeypatch):
    monkeypatch.setattr(inference, "BATCHES", (1, 3))
    status, result = bench("infer", "--images", "3")
    assert status == 0 and [t["title"] for t in result["tables"]] == ["Evaluation at batch 1", "Evaluation at batch 3"]
    ours = ["vit", "vitbnffn", "vitbn", "vit-served", "vitbnffn-served", "vitbn-served"]
    assert names(result, 1) == [*ours, "vit-pytorch", "timm", "timm-own-heads"]


def test_data_reads_every_image(bench):
    status, result = bench("data")
    assert status == 0 and names(result) == ["ours", "workers-0", "workers-1", "workers-2"]
    arm = result["tables"][0]["arms"][0]
    assert arm["figures"]["images/s"]["median"] == pytest.approx(1 / arm["seconds"]["median"])


def test_growth_has_a_table_per_axis_and_a_picture(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(growth, "STEPS", 1)
    monkeypatch.setattr(growth, "EPOCHS", 2)
    monkeypatch.setattr(growth, "QUICK", 1)
    status, result = bench("growth")
    assert status == 0 and [t["varied"] for t in result["tables"]] == list(growth.AXES)
    assert [names(result, i) for i in range(4)] == [["1"], ["10"], ["14"], ["5"]]
    assert all(table["arms"][0]["work"]["flop"] > 0 for table in result["tables"])
    assert (tmp_path / "result.svg").exists() and (tmp_path / "result.png").exists()


def test_start_measures_processes(bench, monkeypatch):
    code = f"import sys; sys.exit({start.STEPPED} if 'runs=' in sys.argv[-1] else 2 if 'depth=0' in sys.argv else 0)"
    monkeypatch.setattr(start, "UP_TO_FIRST_STEP", code)
    status, result = bench("start", "--arms", "first-step")
    assert status == 0 and names(result) == ["help", "first-step"]
    assert "CPU s" in result["tables"][0]["arms"][0]["figures"]


def test_a_process_that_ends_otherwise_is_an_error(bench, monkeypatch, capsys):
    monkeypatch.setattr(start, "UP_TO_FIRST_STEP", "print('out of order'); raise SystemExit(1)")
    assert bench("start", "--arms", "first-step") == (2, None)
    assert "exit status 1 instead of 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--arms", "ours,theirs"], "--arms theirs: unknown; choose from ours, ours-bf16"),
        (["train", "--arms", "ours-compiled"], "--arms ours-compiled: unknown"),  # without --compile there is none
        (["data", "--data", "mnist"], "(here: --data mnist5k, or --quick)"),
        (
            ["data", "--data", "nope"],
            "data=nope: unknown; choose from cifar10, cifar100, emnist, ",
        ),
        (["infer", "--device", "cuda"], "--device cuda: no CUDA GPU here"),
    ],
)
def test_bad_input_gets_one_line(bench, monkeypatch, capsys, words, message):
    def missing(root):
        raise InputError("MNIST is not there")

    monkeypatch.setitem(sources.SOURCES, "mnist", missing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench(*words) == (2, None)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("package", "arm", "name"), [("timm", "timm", "timm"), ("vit_pytorch", "plain", "vit-pytorch")]
)
@pytest.mark.parametrize("what", ["train", "infer"])
def test_a_missing_package_is_named_with_the_remedy(bench, monkeypatch, capsys, what, package, arm, name):
    for module in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    chosen = arm if what == "train" else name
    assert bench(what, "--arms", chosen) == (2, None)
    error = capsys.readouterr().err
    assert f"bench.py compares with {name}, which is not installed: pip install -e '.[bench]'" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [["train", "--rounds", "0"], ["train", "--images", "many"], ["nonsense"]])
def test_the_parser_refuses(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and words[-1] in capsys.readouterr().err


def test_results_of_a_gpu_and_of_a_quick_run_go_elsewhere():
    from vitbench.options import Options, out_path

    paths = [out_path(Options("train", quick=quick), device) for quick in (False, True) for device in ("cpu", "cuda")]
    assert [path.name for path in paths] == [
        "train.json",
        "train-cuda.json",
        "train-quick.json",
        "train-cuda-quick.json",
    ]


def test_step_measures_every_network_in_every_way(bench, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compile_fully(net, backend="aot_eager"))
    status, result = bench("step", "--batch-size", "4", "--compile", "--arms", "vit-bf16-compiled,timm")
    assert status == 0 and names(result) == ["vit", "vit-bf16-compiled", "timm"]
    assert result["tables"][0]["arms"][1]["what"].endswith("bf16-mixed compile=true")


def test_where_adds_up(bench):
    status, result = bench("where", "--batch-size", "20")
    assert status == 0 and [table["title"].rpartition(" of ")[2] for table in result["tables"]] == [
        "vit goes", "vitbnffn goes", "vitbn goes"
    ]  # fmt: skip
    for table in result["tables"]:
        seconds = {arm["name"]: arm["seconds"]["median"] for arm in table["arms"]}
        assert {"products", "norms", "augmentation", "validation", "Python"} < seconds.keys()
        assert sum(seconds.values()) == pytest.approx(2 * seconds["whole"]) and min(seconds.values()) >= 0
