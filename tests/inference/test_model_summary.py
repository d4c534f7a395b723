import re

import pytest
import torch
from torchvision.models import ResNet34_Weights, VGG16_Weights

from tests.conftest import ARTICLE
from vitbn import ViTBN
from vitbn.cli import main
from vitbn.inference.model_summary import summarize
from vitbn.models.placements import named
from vitbn.models.published import resnet34, vgg16
from vitbn.models.vit import VisionTransformer


@pytest.mark.parametrize(("make", "weights"), [(resnet34, ResNet34_Weights), (vgg16, VGG16_Weights)])
def test_counts_are_those_that_torchvision_publishes(make, weights):
    with torch.device("meta"):
        net = make(image_size=224, channels=3, num_classes=1000, **({"dropout": 0.5} if make is vgg16 else {}))
        summary = summarize(net, channels=3, image_size=224)
    meta = weights.IMAGENET1K_V1.meta
    assert summary.total_parameters == meta["num_params"]
    assert summary.total_flops / 2e9 == pytest.approx(meta["_ops"], abs=5e-4)


def vit_b16(**options):
    size = {"image_size": 224, "patch_size": 16, "channels": 3, "num_classes": 10, "dim": 768, "depth": 12,
            "heads": 12, "dim_head": 64, "mlp_dim": 3072, "qkv_bias": True, "norm_eps": 1e-6}  # fmt: skip
    return VisionTransformer(**size, placement=named("vit_b16"), **options)


def test_every_parameter_and_product_of_a_vit_is_counted():
    with torch.device("meta"):
        summary = summarize(vit_b16(pool="mean"), channels=3, image_size=224)
    assert summary.total_parameters == 85_806_346
    tokens, dim = 197, 768
    block = 4 * dim * dim * tokens + 2 * tokens * tokens * dim + 2 * 4 * dim * dim * tokens
    assert summary.total_flops == 2 * (196 * dim * dim + 12 * block + dim * 10)
    shapes = dict(zip(summary.layer_names, zip(summary.in_sizes, summary.out_sizes, strict=True), strict=True))
    assert shapes["net.blocks.11.ffn.fc1"] == ([1, 197, 768], [1, 197, 3072])


def test_norms_of_any_placement_are_listed():
    summary = summarize(ViTBN(**ARTICLE), channels=1, image_size=28)
    assert summary.layer_types.count("TokenBatchNorm") == 3 + 2 * ARTICLE["depth"]
    assert summary.total_parameters == 893_932


def test_the_command_prints_the_table_with_its_totals(capsys):
    assert main(["summary", "model=vitbnffn", "depth=2"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"blocks.0.ffn.hidden_norm +\| TokenBatchNorm .*\[1, 17, 128\]", out)
    assert "blocks.2" not in out and re.search(r"parameters 301,\d{3}\nFLOPs \d", out)


def test_published_networks_are_shown_for_photographs(capsys):
    assert main(["summary", "model=resnet34"]) == 0
    out = capsys.readouterr().out
    assert "resnet34, one image of 3 x 224 x 224" in out and "parameters 21,289,802\n" in out


def test_bad_input_is_one_line(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["summary", "model=vit_b16", "data=mnist"])
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("error: model.patch_size=16: does not divide the image size 28")
