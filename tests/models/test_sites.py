"""The tables against real classes of each library."""

import pytest
from torch import nn

from tests import foreign
from tests.conftest import TINY
from vitbn import ViT
from vitbn.errors import InputError
from vitbn.models.placements import Slot
from vitbn.models.sites import sites

SLOTS = [slot for slot in Slot if slot != "attn_post"]  # no module's output is the sum after attention
GATED = [slot for slot in SLOTS if slot != "ffn_hidden"]
OFFERED = {
    **dict.fromkeys(foreign.NETWORKS, SLOTS),
    "torchvision": [slot for slot in SLOTS if slot != "qk"],
    **dict.fromkeys(("vit-pytorch", "vit-pytorch, simple"), [slot for slot in SLOTS if slot != "ffn_post"]),
}


def slots(net):
    return list(dict.fromkeys(site.slot for site in sites(net)))


@pytest.mark.parametrize("name", foreign.NETWORKS)
def test_slots_stand_in_the_order_of_the_data_beside_linears(name):
    net = foreign.NETWORKS[name]()
    found = sites(net)
    assert slots(net) == OFFERED[name]
    for site in found:
        assert bool(site.linears) == (site.slot != "ffn_post")
        assert all(net.get_submodule(path).weight is not None for path in site.linears if site.after)
        assert (site.layer is None) == (site.slot in ("embed_in", "embed_out", "final"))
    assert {site.layer for site in found} == {None, 0, 1}
    assert len({site.path for site in found}) == len(found)


def test_a_site_says_its_slot_and_block():
    first, *_, last = sites(ViT(**TINY))
    assert (str(first), str(last), str(sites(ViT(**TINY))[-2])) == ("embed_in", "final", "ffn_post 2")


def test_the_norm_after_averaging_is_the_final_one():
    def final(**options):
        (site,) = (site for site in sites(foreign.timm(**options)) if site.slot == "final")
        return site.path, site.before

    assert final() == ("norm", ("head",)) and final(global_pool="avg") == ("fc_norm", ("head",))
    assert final(global_pool="avg", fc_norm=False) == ("norm", ("head",))
    assert final(fc_norm=True) == ("fc_norm", ("head",))
    assert final(global_pool="avg", final_norm=False) == ("fc_norm", ("head",))
    assert final(global_pool="max", fc_norm=False) == ("norm", ())  # a maximum does not commute with a negative scale
    assert final(global_pool="map") == ("norm", ())


def test_both_heads_of_a_distilled_network_read_the_final_norm():
    assert sites(foreign.timm_distilled())[-1].before == ("head", "head_dist")
    made = foreign.huggingface("DeiTForImageClassificationWithTeacher")
    assert sites(made)[-1].before == ("cls_classifier", "distillation_classifier")


def test_networks_without_a_head_have_a_final_norm_that_stays():
    for net in (foreign.huggingface("ViTModel"), foreign.huggingface("Dinov2Model"), foreign.timm(num_classes=0)):
        assert sites(net)[-1].slot == "final" and not sites(net)[-1].linears


def test_gated_feed_forwards_have_no_hidden_slot():
    from timm.layers import SwiGLU, SwiGLUPacked

    dino = foreign.huggingface("Dinov2ForImageClassification", use_swiglu_ffn=True)
    assert [slots(net) for net in (foreign.timm(mlp_layer=SwiGLUPacked), dino)] == [GATED] * 2
    separate = foreign.timm(mlp_layer=SwiGLU)
    (ffn_in, _) = (site for site in sites(separate) if site.slot == "ffn_in")
    assert slots(separate) == GATED and ffn_in.before == ("blocks.0.mlp.fc1_g", "blocks.0.mlp.fc1_x")


def test_blocks_with_their_norms_behind_attention_and_feed_forward():
    from timm.models.vision_transformer import ResPostBlock

    found = sites(foreign.timm(block_fn=ResPostBlock, depth=1))
    paths = {site.slot: site.path for site in found}
    assert "attn_in" not in paths and (paths["attn_out"], paths["ffn_out"]) == ("blocks.0.norm1", "blocks.0.norm2")


def test_older_names_of_hugging_face_are_known():
    """Stand-ins for the modules of transformers 4."""

    def tree(**children):
        module = nn.Module()
        for name, child in children.items():
            setattr(module, name, child)
        return module

    def linear(width=16, out=16):
        return nn.Linear(width, out)

    qkv = tree(query=linear(), key=linear(), value=linear())
    layer = tree(
        layernorm_before=nn.LayerNorm(16), attention=tree(attention=qkv, output=tree(dense=linear())),
        layernorm_after=nn.LayerNorm(16), intermediate=tree(dense=linear(16, 24), intermediate_act_fn=nn.GELU()),
        output=tree(dense=linear(24, 16)),
    )  # fmt: skip
    known = type("ViTPreTrainedModel", (nn.Module,), {"__module__": "transformers.models.vit.modeling_vit"})
    net = type("ViTForImageClassification", (known,), {"base_model_prefix": "vit"})()
    net.config = tree(hidden_size=16, num_attention_heads=2)
    net.vit = tree(
        embeddings=tree(patch_embeddings=tree(projection=nn.Conv2d(3, 16, 7, 7))),
        encoder=tree(layer=nn.ModuleList([layer])), layernorm=nn.LayerNorm(16),
    )  # fmt: skip
    net.classifier = linear()
    found = {site.path.removeprefix("vit.encoder.layer.0."): site.linears for site in sites(net) if site.layer == 0}
    assert slots(net) == [slot for slot in SLOTS if slot != "ffn_post"]  # its blocks return tuples
    assert all(site.linears for site in sites(net))
    assert found["attention.attention.query.norm_after"] == ("vit.encoder.layer.0.attention.attention.query",)
    assert found["intermediate.intermediate_act_fn.norm_before"] == ("vit.encoder.layer.0.intermediate.dense",)
    assert found["output.dense.norm_after"] == ("vit.encoder.layer.0.output.dense",)


def test_subclasses_and_what_wraps_a_network_are_known():
    class Own(ViT):
        pass

    assert slots(Own(**TINY)) == list(Slot)
    wrapped = nn.Sequential(nn.Identity(), foreign.timm())
    assert [site.path for site in sites(wrapped)] == [f"1.{site.path}" for site in sites(wrapped[1])]
    assert sites(wrapped)[-1].before == ("1.head",)


def test_what_is_not_known_is_refused_in_one_line():
    from timm.models.vision_transformer import ParallelScalingBlock

    known = "timm's and torchvision's VisionTransformer, Hugging Face's ViT, DeiT and DINOv2, vit-pytorch's ViT"
    with pytest.raises(InputError, match=rf"^Linear: .*{known}"):
        sites(nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"^ModuleList has several Vision Transformers \(0, 1\): pass one of them$"):
        sites(nn.ModuleList([ViT(**TINY), ViT(**TINY)]))
    with pytest.raises(InputError, match=r"^blocks of class ParallelScalingBlock: .* Block and ResPostBlock$"):
        sites(foreign.timm(block_fn=ParallelScalingBlock))
