"""Networks of timm, Hugging Face and torchvision by name."""

import pytest
import torch
from torch import nn

from vitbn.errors import InputError
from vitbn.models.factory import build
from vitbn.models.libraries import library_network
from vitbn.norms import TokenBatchNorm

SIZE = {"image_size": 28, "channels": 1, "num_classes": 3, "placement": {}, "depth": None}
SMALL = {
    "timm": {"name": "vit_tiny_patch16_224", "depth": 2, "patch_size": 14, "embed_dim": 24, "num_heads": 2},
    "hf": {"name": "vit", "depth": 2, "patch_size": 14, "hidden_size": 24, "num_attention_heads": 2,
           "intermediate_size": 32},
}  # fmt: skip
CNNS = {"timm": "test_resnet", "torchvision": "squeezenet1_1"}


def config(library, **options):
    return {"library": library, "_target_": "vitbn.models.libraries.library_network", **SIZE, **options}


@pytest.mark.parametrize("library", SMALL)
def test_arms_of_one_seed_start_equal_wherever_names_agree(library):
    theirs, replaced, other = (
        build(config(library, **SMALL[library], placement=placement), seed=seed)
        for placement, seed in (({}, 0), ({"ffn_in": "none", "ffn_hidden": "batch"}, 0), ({}, 1))
    )
    assert sum(isinstance(module, TokenBatchNorm) for module in replaced.modules()) == 2
    own, states = dict(theirs.named_parameters()), [dict(net.named_parameters()) for net in (replaced, other)]
    shared = own.keys() & states[0].keys()
    assert len(shared) > 20 and len(own) - len(shared) == 4  # weight and bias of two norms
    assert all(torch.equal(own[name], states[0][name]) for name in shared)
    drawn = [name for name in own if own[name].ndim > 1]
    assert not any(torch.equal(own[name], states[1][name]) for name in drawn if own[name].any())


@pytest.mark.parametrize("library", SMALL)
def test_a_slot_that_is_null_keeps_what_is_there(library):
    kept = build(config(library, **SMALL[library], placement={"ffn_in": None}), seed=0)
    assert [type(module) for module in kept.modules()] == [
        type(module) for module in build(config(library, **SMALL[library]), seed=0).modules()
    ]


@pytest.mark.parametrize("library", CNNS)
def test_building_leaves_torchs_generator_alone(library):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build(config(library, name=CNNS[library], image_size=32), seed=0)
    assert torch.equal(torch.rand(1), expected)


def test_torchvisions_networks_see_grey_as_the_same_grey_in_every_colour():
    grey, colour = (build(config("torchvision", name="squeezenet1_1", image_size=32, channels=c), seed=0).eval()
                    for c in (1, 3))  # fmt: skip
    image = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(grey(image), colour(image.expand(-1, 3, -1, -1)))


REFUSED = {
    "unknown network of timm; did you mean resnet18": {"library": "timm", "name": "resnet81"},
    "unknown network of timm; `vitbn models timm`": {"library": "timm", "name": "hf-hub:timm/resnet18"},
    "unknown network of hf": {"library": "hf", "name": "timm_wrapper"},
    "unknown network of torchvision": {"library": "torchvision", "name": "fcn_resnet50"},
    "foo=3: timm's test_resnet has no such option": {"library": "timm", "name": "test_resnet", "foo": 3},
    "depth=4: timm's test_resnet has no such option": {"library": "timm", "name": "test_resnet", "depth": 4},
    "depth=4: torchvision's networks have the depth": {"library": "torchvision", "name": "resnet18", "depth": 4},
    "foo=3: hf's vit has no such option": {"library": "hf", "name": "vit", "foo": 3},
    "attn_implementation=eager: hf's vit has": {"library": "hf", "name": "vit", "attn_implementation": "eager"},
    "checkpoint_path: cannot be typed": {"library": "timm", "name": "test_resnet", "checkpoint_path": "x.pth"},
    "weights: cannot be typed": {"library": "torchvision", "name": "resnet18", "weights": "DEFAULT"},
    "act_layer=os.system": {"library": "timm", "name": "test_vit", "act_layer": "os.system('x')"},
    "num_hidden_layers=251: at most 250": {"library": "hf", "name": "vit", "num_hidden_layers": 251},
    "width=1048577": {"library": "timm", "name": "test_vit", "width": 2**20 + 1},
    "does not take images of 1 x 28 x 28": {"library": "torchvision", "name": "alexnet"},
    "does not give one logit for each class": {"library": "timm", "name": "test_vit", "image_size": 160,
                                               "global_pool": ""},
    "norm.ffn_in=batch: ResNet": {"library": "timm", "name": "test_resnet", "placement": {"ffn_in": "batch"}},
    "library=keras": {"library": "keras", "name": "vit"},
}  # fmt: skip


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_made_is_refused_by_name(line):
    options = SIZE | REFUSED[line]
    with torch.device("meta"), pytest.raises(ValueError, match="(?s)" + line.replace("(", r"\(")) as refused:
        library_network(**options)
    assert "\n" not in str(refused.value)


def test_a_library_that_is_not_installed_is_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(InputError, match=r"timm is not installed; pip install 'vitbn\[timm\]'"):
        build(config("timm", name="resnet18"), seed=0)


def test_torchvisions_vit_takes_its_image_size_and_norms():
    with torch.device("meta"):
        net = library_network(**{**SIZE, "image_size": 32, "placement": {"ffn_in": "batch"}},
                              library="torchvision", name="vit_b_16")  # fmt: skip
    assert net.encoder.pos_embedding.shape == (1, 5, 768)
    assert sum(isinstance(module, nn.LayerNorm) for module in net.modules()) == 13
