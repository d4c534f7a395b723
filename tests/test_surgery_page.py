"""The Python of README and of the pages on norms is run, in their order, on a smaller network."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch

from vitbn.norms import TokenBatchNorm

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = {page: re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
          for page in ("surgery.md", "transplant.md", "norms.md", "../README.md")}  # fmt: skip
LOADER = [(torch.rand(4, 3, 32, 32), torch.arange(4)) for _ in range(2)]


@pytest.fixture
def small(monkeypatch):
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, img_size=32, depth=2))


def batchnorms(model):
    return {path: module for path, module in model.named_modules() if isinstance(module, TokenBatchNorm)}


def test_the_page_trains_calibrates_and_folds(small, capsys):
    trains, calibrates, folds = BLOCKS["surgery.md"]
    names = {"loader": LOADER}
    exec(trains, names)
    model = names["model"]
    norms = batchnorms(model)
    assert list(norms) == [f"blocks.{layer}.mlp.act.norm_before" for layer in (0, 1)]
    assert all(norm.num_batches_tracked == 2 and norm.weight.std() > 0 for norm in norms.values())
    assert {type(block.norm2) for block in model.blocks} == {torch.nn.Identity}
    exec(calibrates, names)
    assert len(batchnorms(model)) == 6
    exec(folds, names)
    assert "ffn_hidden 2: batch -> blocks.1.mlp.fc1, scales its outputs" in capsys.readouterr().out
    images = LOADER[0][0]
    with torch.no_grad():
        torch.testing.assert_close(names["small"](images), model(images), rtol=0, atol=1e-4)
    assert not batchnorms(names["small"])


def test_readme_has_the_same_lines():
    assert BLOCKS["../README.md"] == BLOCKS["surgery.md"][:1]


def test_the_page_of_norms_runs():
    ours, theirs = BLOCKS["norms.md"]
    names = {}
    exec(ours + theirs, names)
    assert len(batchnorms(names["net"])) == 25  # two in each of twelve blocks, and the last


def test_the_page_measures_what_each_replacement_costs(small, capsys):
    import timm

    (measures,) = BLOCKS["transplant.md"]
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    exec(measures, {"model": model, "images": LOADER[0][0], "others": LOADER[1][0]})
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" ")[0].rpartition(" ")[0] for line in lines[:5]] == [
        "attn_in 1", "ffn_in 1", "attn_in 2", "ffn_in 2", "final",
    ]  # fmt: skip
    assert len(lines) == 10 and len(batchnorms(model)) == 5
