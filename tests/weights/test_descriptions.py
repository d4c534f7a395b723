"""Descriptions beside weights: understood whole, or refused by the name of what is not."""

import json

import pytest
import torch

from tests import foreign
from tests.foreign import saved
from vitbn.errors import InputError
from vitbn.weights.network import load_network, read_weights

HEADS = {"num_attention_heads": 2}


@pytest.fixture(scope="module")
def state():
    return foreign.timm().state_dict()


def refused(place, words):
    with pytest.raises(InputError, match=words) as error:
        read_weights(place)
    assert "\n" not in str(error.value) and len(str(error.value).replace(str(place.parent), "")) < 200


@pytest.mark.parametrize("options", [
    {"act_layer": "relu"}, {"act_layer": "quick_gelu"}, {"norm_layer": "rmsnorm"}, {"class_token": False},
    {"qk_norm": True}, {"init_values": 1e-5}, {"reg_tokens": 4}, {"block_fn": "ResPostBlock"}, {"mlp_layer": "SwiGLU"},
    {"scale_mlp_norm": True}, {"rope": True}, {"global_pool": "avg"},
])  # fmt: skip
def test_arguments_of_timm_that_make_another_network(tmp_path, state, options):
    (key,) = options
    refused(saved(tmp_path, state, {"model_args": {"num_heads": 2, **options}}), rf"config\.json: model_args\.{key}=")


def test_arguments_of_timm_that_do_not(tmp_path, state):
    told = {"img_size": 28, "patch_size": 7, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 1.5,
            "qkv_bias": True, "class_token": True, "global_pool": "token", "fc_norm": None, "dynamic_img_size": True,
            "drop_path_rate": 0.1, "act_layer": "gelu", "norm_layer": None, "num_classes": 3}  # fmt: skip
    place = saved(tmp_path, state, {"architecture": "vit_tiny_patch16_224", "model_args": told, "global_pool": "token"})
    assert read_weights(place).options["heads"] == 2


@pytest.mark.parametrize("config", [
    {"hidden_act": "relu"}, {"hidden_act": "gelu_new"}, {"model_type": "deit"}, {"quantization_config": {}},
    {"architecture": "vit_base_patch16_clip_quickgelu_224"}, {"architecture": "vit_base_patch16_siglip_224"},
    {"use_swiglu_ffn": True}, {"pruned_heads": {"0": [1]}}, {"pool": "mean"}, {"heads": 3}, {"model_args": 5},
    {"num_attention_heads": "two"},
])  # fmt: skip
def test_keys_that_make_another_network(tmp_path, state, config):
    refused(saved(tmp_path, state, {**HEADS, **config}), r"(config\.json|model\.safetensors): ")


def test_every_key_that_transformers_writes_is_known(tmp_path):
    net = foreign.huggingface()
    net.save_pretrained(tmp_path)
    said = net.config.to_dict() | {"torch_dtype": "float32", "finetuning_task": None, "hidden_act": "gelu_python"}
    (tmp_path / "config.json").write_text(json.dumps(said))
    images = torch.randn(2, 3, 28, 28, dtype=torch.float64)
    expected = foreign.logits(net, images).float()
    torch.testing.assert_close(foreign.logits(load_network(tmp_path).net, images.float()), expected, rtol=0, atol=1e-5)
