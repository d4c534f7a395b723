import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from tests.conftest import TINY
from vitbn import ViTBNFFN
from vitbn.errors import InputError
from vitbn.models.factory import decay_groups, make_optimizer

RMSPROP = {"_target_": "torch.optim.RMSprop", "lr": 9.0, "momentum": 0.5, "decay_weights_only": False}


def test_any_class_with_the_runs_learning_rate():
    optimizer = make_optimizer(RMSPROP, lr=0.02)(nn.Linear(2, 2))
    assert type(optimizer) is torch.optim.RMSprop
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.02, 0.5)
    betas = make_optimizer({"_target_": "torch.optim.Adam", "betas": [0.9, 0.95]}, lr=0.1)(nn.Linear(2, 2))
    assert type(betas.param_groups[0]["betas"]) in (list, tuple)  # a ListConfig would not load again


@pytest.mark.parametrize(
    ("config", "message"),
    [({"_target_": "torch.optim.Adam", "betas": [2, 0.9]}, "optimizer._target_=torch.optim.Adam: Invalid beta"),
     ({"_target_": "torch.optim.Adamm"}, "optimizer._target_=torch.optim.Adamm: .*Adamm"),
     ({"_target_": "torch.optim.Rprop", "decay_weights_only": True}, "torch.optim.Rprop has no weight decay"),
     ({"_target_": "builtins.dict"}, "optimizer._target_=builtins.dict: ")],
)  # fmt: skip
def test_what_cannot_be_made_is_named(config, message):
    with pytest.raises(InputError, match=message):
        make_optimizer(config, lr=0.1)(nn.Linear(2, 2))


@pytest.mark.parametrize("net", [
    timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, num_classes=3, init_values=0.1),
    timm.create_model("resnet10t", num_classes=3),
], ids=["ViT", "ResNet"])  # fmt: skip
def test_what_decays_is_what_decays_in_timm(net):
    skipped = net.no_weight_decay() if hasattr(net, "no_weight_decay") else ()
    exempt, decayed = param_groups_weight_decay(net, 0.05, no_weight_decay_list=skipped)
    ours = decay_groups(net)
    assert [set(map(id, group["params"])) for group in ours] == [
        set(map(id, group["params"])) for group in (decayed, exempt)
    ]


def test_our_networks_positions_and_class_token_do_not_decay():
    net = ViTBNFFN(**TINY)
    weights, exempt = decay_groups(net)
    assert exempt["weight_decay"] == 0.0
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    left = {names[id(parameter)] for parameter in exempt["params"]}
    assert {name for name in left if net.get_parameter(name).ndim > 1} == {"embedding.cls", "embedding.positions.table"}
    assert all(net.get_parameter(names[id(p)]).ndim == 2 for p in weights["params"])
    optimizer = make_optimizer({"_target_": "torch.optim.SGD", "weight_decay": 1.0, "decay_weights_only": True}, lr=0.5)
    before = net.embedding.cls.detach().clone()
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer(net).step()
    assert torch.equal(net.embedding.cls, before)
