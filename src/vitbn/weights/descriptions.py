"""What files beside weights say of their network: every word of it is understood, or the weights are refused.

Weights of equal names and shapes can be of another function: another activation, another pooling.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitbn.errors import InputError
from vitbn.weights.layouts import TIMM, TORCHVISION, Layout
from vitbn.weights.vit_pytorch import VIT_PYTORCH

log = logging.getLogger("vitbn")
# width: heads, of the published sizes Ti, S, B, L and H (Dosovitskiy et al., 2021; Touvron et al., 2021)
PUBLISHED_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
# timm's networks that our VisionTransformer is; others of the same names may differ in what shapes do not show
TIMM_NETWORKS = r"(vit|deit)_[a-z]+_patch\d+(_\d+)?(_(miil|in21k|dino|sam))?(\.\w+)?|test_vit(\.\w+)?"

# keys that shapes tell as well, that only training or other tasks read, or that name things
_HARMLESS = """
    _attn_implementation_autoset _commit_hash _name_or_path add_cross_attention architecture architectures
    attention_probs_dropout_prob attn_drop_rate attn_implementation bad_words_ids begin_suppress_tokens bos_token_id
    channels chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id depth device dim dim_head
    diversity_penalty do_sample drop_path_rate drop_rate dropout dtype dynamic_img_size early_stopping emb_dropout
    embed_dim encoder_no_repeat_ngram_size encoder_stride eos_token_id exponential_decay_length_penalty
    finetuning_task fix_init forced_bos_token_id forced_eos_token_id gradient_checkpointing heads hidden_dropout_prob
    hidden_size id2label image_size img_size in_chans initializer_range intermediate_size is_decoder
    is_encoder_decoder label2id label_descriptions label_names layer_norm_eps length_penalty max_length min_length
    mlp_dim mlp_ratio model_args name_or_path no_repeat_ngram_size num_attention_heads num_beam_groups num_beams
    num_channels num_classes num_features num_heads num_hidden_layers num_labels num_return_sequences
    output_attentions output_hidden_states output_scores pad_token_id patch_drop_rate patch_size pooler_act
    pooler_output_size pos_drop_rate prefix pretrained_cfg problem_type proj_drop_rate pruned_heads qkv_bias
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k
    top_p torch_dtype torchscript transformers_version typical_p use_bfloat16 use_cache weight_init
"""
HARMLESS = frozenset(_HARMLESS.split())
# keys that can make another function of the same weights: the values with which it is ours
OURS: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu", "gelu_python"), "act_layer": ("gelu", None), "global_pool": ("token",),
    "model_type": ("vit", "vit_msn"), "norm_layer": (None, "layernorm"), "class_token": (True,),
    "fc_norm": (None, False), "init_values": (None,), "qk_norm": (False,), "pre_norm": (False,), "reg_tokens": (0,),
    "no_embed_class": (False,), "final_norm": (True,), "proj_bias": (True,), "pos_embed": ("learn",),
    "scale_attn_norm": (False,), "scale_mlp_norm": (False,), "pool_include_prefix": (False,),
    "dynamic_img_pad": (False,), "embed_norm_layer": (None,),
    "pool": ("cls", "mean"), "pos_emb": ("learn", "pe1d"),
}  # fmt: skip


def require_understood(config: Mapping[str, Any], layout: Layout, file: Path) -> None:
    """InputError names the first key that may make another network of the same weights."""
    arguments = config.get("model_args") or {}
    for prefix, part in (("", config), ("model_args.", arguments)):
        for key, value in part.items():
            said = f"{prefix}{key}={str(value)[:40]}"[:80]
            if key in OURS and value not in OURS[key]:
                raise InputError(f"{file}: {said}; our network has {key}={' or '.join(map(str, OURS[key]))} only")
            if key not in OURS and key not in HARMLESS:
                raise InputError(f"{file}: {said}; nothing is known of {key}, so it may be another network")
    if config.get("pruned_heads"):
        raise InputError(f"{file}: pruned_heads={str(config['pruned_heads'])[:40]}; our network has all heads")
    name = config.get("architecture")
    if layout is TIMM and name is not None and not re.fullmatch(TIMM_NETWORKS, str(name)):
        raise InputError(
            f"{file}: architecture={str(name)[:60]}; of timm's networks our own are vit_*_patch*, deit_*_patch*"
        )
    if layout is not VIT_PYTORCH and (unread := [key for key in ("pool", "pos_emb") if key in config]):
        raise InputError(f"{file}: {unread[0]}={config[unread[0]]}; {layout.name}'s networks have no such option")


def described(config: Mapping[str, Any], layout: Layout, options: dict[str, Any], file: Path) -> dict[str, Any]:
    """The options of our VisionTransformer: what shapes tell and what the description adds."""
    options = dict(options)
    inner, projects, pools_first = (options.pop(key) for key in ("inner", "projects", "pools_first"))
    options |= _heads(config, layout, options["dim"], inner, projects, file)
    options["norm_eps"] = config.get("layer_norm_eps", layout.norm_eps)
    if layout is VIT_PYTORCH:
        options |= {key: config[key] for key in ("pool", "pos_emb") if key in config}
        if assumed := {key: options[key] for key in ("pool", "pos_emb") if key not in config}:
            log.warning(f"{file}: taken to have {_pairs(assumed)}; if not, say it in config.json beside it")
        if pools_first and options["pool"] == "mean":
            raise InputError(f"{file}: norms the mean of its tokens; our network takes the mean of normed ones")
    return options


def _pairs(values: Mapping[str, Any]) -> str:
    return " and ".join(f"{key}={value}" for key, value in values.items())


def _heads(
    config: Mapping[str, Any], layout: Layout, dim: int, inner: int, projects: bool, file: Path
) -> dict[str, int]:
    """heads and dim_head, which share the `inner` features of q; empty if nothing tells them."""
    arguments = config.get("model_args") or {}
    said = [config.get("num_attention_heads"), config.get("heads"), arguments.get("num_heads")]
    heads = next((number for number in said if number is not None), None)
    if any(number not in (None, heads) for number in said):
        raise InputError(
            f"{file}: heads={' and '.join(str(n)[:20] for n in said if n is not None)}; one of them is wrong"
        )
    if heads is None and config.get("dim_head"):
        heads = inner // config["dim_head"]
    if heads is None and not projects and inner == dim:
        heads = 1  # its head is the output
    if heads is None:
        heads = PUBLISHED_HEADS.get(dim) if layout.dim_head is None else _of_default_size(inner, dim, layout.dim_head)
        if heads:
            log.warning(f"{file}: taken to have {heads} heads, as {layout.name}'s networks of width {dim} have")
    if not heads:
        return {}
    if type(heads) is not int or heads < 1 or inner % heads:
        raise InputError(f"{file}: heads={str(heads)[:40]}; {inner} features cannot be shared so")
    return {"heads": heads, "dim_head": inner // heads}


def _of_default_size(inner: int, dim: int, dim_head: int) -> int | None:
    """How many heads of the library's default size; one of the network's own width would have no projection."""
    return None if inner % dim_head or inner == dim == dim_head else inner // dim_head


def mean_and_std(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], layout: Layout, file: Path
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each channel, for pixels in [0, 1]."""
    if preprocessor.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    timm = config.get("pretrained_cfg") or {}
    mean = preprocessor.get("image_mean", timm.get("mean"))
    std = preprocessor.get("image_std", timm.get("std"))
    if mean is None or std is None:
        mean, std = layout.mean, layout.std
        log.warning(f"{file}: says nothing of mean and std; taken to be {mean} and {std}, usual for {layout.name}")
    return tuple(mean), tuple(std)


def labels(config: Mapping[str, Any], layout: Layout, num_classes: int) -> tuple[str, ...]:
    """What the outputs mean, or their numbers."""
    names = config.get("id2label") or config.get("label_names") or ()
    if isinstance(names, dict):
        names = [names[number] for number in sorted(names, key=int)]
    if not names and layout is TORCHVISION and num_classes == 1000:
        from torchvision.models import ViT_B_16_Weights

        names = ViT_B_16_Weights.DEFAULT.meta["categories"]
    return tuple(names) if len(names) == num_classes else tuple(map(str, range(num_classes)))
