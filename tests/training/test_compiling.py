"""Which blocks share compiled code, how many pieces of code that makes, and when it pays."""

import logging

import pytest
import torch
from torch import nn

from tests.conftest import TINY
from vitbn.config.checks import check
from vitbn.errors import InputError
from vitbn.models.mlp import MLP
from vitbn.models.vit import ViT, ViTBNFFN
from vitbn.training import compiling
from vitbn.training.compiling import compile_blocks, pays, repeated_blocks
from vitbn.training.outcome import attempt
from vitbn.training.train import train


@pytest.fixture
def graphs(monkeypatch):
    """What torch.compile captures, run as it is instead of being made into code."""
    captured, compile_fully = [], nn.Module.compile

    def backend(graph, inputs):
        captured.append(graph)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", lambda net: compile_fully(net, backend=backend, fullgraph=True))
    return captured


def test_the_longest_list_of_like_blocks_is_repeated():
    net = ViT(**{**TINY, "depth": 3})
    assert repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), net)) == list(net.blocks)
    assert repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))) == []
    assert repeated_blocks(nn.Sequential(nn.ReLU(), nn.ReLU())) == []
    called_by_hand = nn.ModuleList(nn.ModuleList([nn.Linear(2, 2)]) for _ in range(3))  # vit-pytorch's blocks
    assert repeated_blocks(called_by_hand) == []


@pytest.mark.parametrize("network", [ViT, ViTBNFFN])
def test_all_blocks_share_one_piece_of_code_and_the_last_has_its_own(network, graphs):
    net = network(**{**TINY, "depth": 5})
    images = torch.rand(4, 1, 28, 28)
    eager = network(**{**TINY, "depth": 5})
    eager.load_state_dict(net.state_dict())
    compile_blocks(net)
    for _ in range(2):
        torch.testing.assert_close(net(images), eager(images))
    assert len(graphs) == 2
    with torch.autocast("cpu", torch.bfloat16):
        net(images).sum().backward()


def test_a_network_without_blocks_is_compiled_as_a_whole(graphs):
    net = MLP(image_size=28, channels=1, num_classes=10, hidden=(8, 9), activation="relu")
    compile_blocks(net)
    net(torch.rand(4, 1, 28, 28))
    assert len(graphs) == 1


def test_runs_of_one_process_do_not_use_up_each_others_limit(graphs):
    for dim in range(8, 18, 2):  # two graphs each; torch gives up after eight of a block
        net = ViT(**{**TINY, "dim": dim})
        compile_blocks(net)
        net(torch.rand(2, 1, 28, 28))
    assert len(graphs) == 2 * 5


@pytest.mark.parametrize(
    ("placement", "steps", "expected"), [("vit", 9, False), ("vit", 10, True), ("vitbn", 10, True)]
)
def test_it_pays_from_a_number_of_blocks_times_steps_on_whatever_the_norms(monkeypatch, placement, steps, expected):
    monkeypatch.setattr(compiling, "WORTHWHILE", 30)
    assert pays(ViT(**{**TINY, "depth": 3}, placement=placement), steps) is expected


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "compile=auto: not compiled (2 steps)"),
        (("trainer.max_steps=1",), "compile=auto: not compiled (1 steps)"),
        (("epochs=2", "callbacks=instruments"), "compile=auto: not compiled (instruments see nothing"),
        (("epochs=2",), "compile=auto: compiled (4 steps)"),
    ],
)
def test_auto_says_what_it_does(make_run, graphs, monkeypatch, caplog, options, line):
    monkeypatch.setattr(compiling, "WORTHWHILE", 8)
    caplog.set_level(logging.INFO)
    result = attempt(make_run("epochs=1", "compile=auto", "batch_size=150", "depth=2", *options), train)
    assert result["status"] == "done" and line in caplog.text
    assert result["compiled"] is bool(graphs) is ("not compiled" not in line)


def test_a_mistyped_value_names_the_choices(make_run):
    with pytest.raises(InputError, match="^compile=maybe: must be true, false or auto$"):
        check(make_run("compile=maybe").config)
