import re

import pytest
import torch
from torchvision.models import ResNet34_Weights, VGG16_Weights

from tests.conftest import ARTICLE
from vitbn import ViTBN
from vitbn.cli import main
from vitbn.inference.model_summary import layers
from vitbn.models.placements import PLACEMENTS
from vitbn.models.published import resnet34, vgg16
from vitbn.models.vit import VisionTransformer


@pytest.mark.parametrize(("make", "weights"), [(resnet34, ResNet34_Weights), (vgg16, VGG16_Weights)])
def test_counts_are_those_that_torchvision_publishes(make, weights):
    with torch.device("meta"):
        net = make(image_size=224, channels=3, num_classes=1000, **({"dropout": 0.5} if make is vgg16 else {}))
        found = list(layers(net, channels=3, image_size=224))
    meta = weights.IMAGENET1K_V1.meta
    assert sum(layer.parameters for layer in found) == meta["num_params"]
    assert sum(layer.flops for layer in found) / 2e9 == pytest.approx(meta["_ops"], abs=5e-4)


def vit_b16(**options):
    size = {"image_size": 224, "patch_size": 16, "channels": 3, "num_classes": 10, "dim": 768, "depth": 12,
            "heads": 12, "dim_head": 64, "mlp_dim": 3072, "qkv_bias": True, "norm_eps": 1e-6}  # fmt: skip
    return VisionTransformer(**size, placement=PLACEMENTS["vit_b16"], **options)


def test_every_parameter_and_product_of_a_vit_is_counted_once():
    with torch.device("meta"):
        found = list(layers(vit_b16(pool="mean"), channels=3, image_size=224))
    assert sum(layer.parameters for layer in found) == 85_806_346
    tokens, dim = 197, 768
    block = 4 * dim * dim * tokens + 2 * tokens * tokens * dim + 2 * 4 * dim * dim * tokens
    assert sum(layer.flops for layer in found) == 2 * (196 * dim * dim + 12 * block + dim * 10)
    own = {layer.name: (layer.parameters, layer.shapes) for layer in found}
    assert own["embedding"] == (dim, ("3 x 224 x 224", "197 x 768")), "CLS"
    assert own["embedding.positions"][0] == tokens * dim
    assert own["blocks.11.ffn.fc1"] == (dim * 3072 + 3072, ("197 x 768", "197 x 3072"))


def test_norms_of_any_placement_are_listed():
    found = list(layers(ViTBN(**ARTICLE), channels=1, image_size=28))
    assert sum(layer.kind == "TokenBatchNorm" for layer in found) == 3 + 2 * ARTICLE["depth"]
    assert sum(layer.parameters for layer in found) == 893_932


def test_the_command_prints_the_table_with_its_totals(capsys):
    assert main(["summary", "model=vitbnffn", "depth=2"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"blocks.0.ffn.hidden_norm +│ TokenBatchNorm +│ 17 x 128", out)
    assert "blocks.2" not in out and re.search(r"parameters 301,\d{3}\n", out)


def test_published_networks_are_shown_for_photographs(capsys):
    assert main(["summary", "model=resnet34"]) == 0
    out = capsys.readouterr().out
    assert "resnet34, one image of 3 x 224 x 224" in out and "parameters 21,289,802\n" in out


def test_bad_input_is_one_line(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["summary", "model=vit_b16", "data=mnist"])
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("error: model.patch_size=16: does not divide the image size 28")
