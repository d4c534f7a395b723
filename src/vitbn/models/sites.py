"""Where the slots stand in a Vision Transformer: ours, timm's, Hugging Face's, torchvision's, vit-pytorch's.

One function per library, none of which is imported: a network is known by its classes' names, subclasses included.
Where a library has no module for a slot, its norm is a child of the module beside it (`models/attach.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from vitbn.errors import InputError
from vitbn.models.placements import Slot


@dataclass(frozen=True)
class Site:
    """A place for a norm over `features`, by its name in the network, and the Linear or Conv2d beside it.

    layer    of the block, from 0; None outside the blocks
    after    whose outputs arrive here; `part`: only its queries (0), keys (1) or values (2)
    before   all that read what leaves here
    view     how a module's tensor becomes (..., features) where the norm is its child
    """

    slot: Slot
    path: str
    features: int
    layer: int | None = None
    after: str | None = None
    part: int | None = None
    before: tuple[str, ...] = ()
    view: str | None = None

    @property
    def linears(self) -> tuple[str, ...]:
        """What an affine map that stands here folds into; empty where it cannot."""
        return (self.after,) if self.after else self.before

    def __str__(self) -> str:
        return str(self.slot) if self.layer is None else f"{self.slot} {self.layer + 1}"


def sites(net: nn.Module) -> list[Site]:
    """Every slot of the network, or of the only Vision Transformer inside it, in the order the data passes them.

    InputError names a network that is not known.
    """
    found: dict[str, Callable[[Any], Iterator[Site]]] = {}
    for path, module in net.named_modules():
        classes = (f"{cls.__module__}.{cls.__qualname__}" for cls in type(module).__mro__)
        family = next((FAMILIES[name] for name in classes if name in FAMILIES), None)
        if family and not any(path.startswith(f"{outer}." if outer else "") for outer in found):
            found[path] = family
    if not found:
        raise InputError(f"{type(net).__name__}: where norms stand is known of {KNOWN}")
    if len(found) > 1:
        raise InputError(f"{type(net).__name__} has several Vision Transformers ({', '.join(found)}): pass one of them")
    ((prefix, family),) = found.items()
    vit = net.get_submodule(prefix)
    return [_prefixed(prefix, _checked(vit, site)) for site in family(vit)]


def has_sites(net: nn.Module) -> bool:
    """Whether `sites` knows the network."""
    try:
        return bool(sites(net))
    except InputError:
        return False


def _checked(net: nn.Module, site: Site) -> Site:
    """Without what no affine map can be folded into."""
    foldable = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
    if all(isinstance(_submodule(net, path), foldable) for path in site.linears):
        return site
    return replace(site, after=None, before=(), part=None)


def _prefixed(prefix: str, site: Site) -> Site:
    def full(path: str) -> str:
        return f"{prefix}.{path}" if prefix else path

    after = full(site.after) if site.after else None
    return replace(site, path=full(site.path), after=after, before=tuple(map(full, site.before)))


def _submodule(net: nn.Module, path: str) -> Any:
    """None where there is none."""
    try:
        return net.get_submodule(path)
    except AttributeError:
        return None


def _first(net: nn.Module, *paths: str) -> str:
    """The first of these names that the network has; the last where it has none."""
    return next((path for path in paths if _submodule(net, path) is not None), paths[-1])


def _patch_in(net: nn.Module, path: str) -> Iterator[Site]:
    """Before a projection whose patches do not overlap."""
    conv = _submodule(net, path)
    if isinstance(conv, nn.Conv2d) and conv.kernel_size == conv.stride and len(set(conv.kernel_size)) == 1:
        features = conv.weight[0].numel()
        yield Site(Slot.embed_in, f"{path}.norm_before", features, before=(path,), view="patches")


def _in_blocks(net: nn.Module, path: str, inside: Callable[[Any], Iterator[Site]]) -> Iterator[Site]:
    """The sites of every block below a path."""
    for layer, (name, block) in enumerate(net.get_submodule(path).named_children()):
        for site in inside(block):
            yield replace(_prefixed(f"{path}.{name}", site), layer=layer)


def _ours(net: Any) -> Iterator[Site]:
    patch, dim = net.embedding.project.in_features, net.embedding.project.out_features

    def block(b: Any) -> Iterator[Site]:
        hidden, head = b.ffn.fc1.out_features, b.attention.dim_head
        yield Site(Slot.attn_in, "attn_in", dim, before=("attention.to_qkv",))
        yield Site(Slot.qk, "attention.q_norm", head, after="attention.to_qkv", part=0)
        yield Site(Slot.qk, "attention.k_norm", head, after="attention.to_qkv", part=1)
        if isinstance(b.attention.to_out, nn.Linear):
            yield Site(Slot.attn_out, "attn_out", dim, after="attention.to_out")
        else:  # one head without projection; attention weights sum to 1, so an affine map may act on the values
            yield Site(Slot.attn_out, "attn_out", dim, after="attention.to_qkv", part=2)
        yield Site(Slot.attn_post, "attn_post", dim)
        yield Site(Slot.ffn_in, "ffn_in", dim, before=("ffn.fc1",))
        yield Site(Slot.ffn_hidden, "ffn.hidden_norm", hidden, after="ffn.fc1")
        yield Site(Slot.ffn_act, "ffn.act_norm", hidden, before=("ffn.fc2",))
        yield Site(Slot.ffn_out, "ffn_out", dim, after="ffn.fc2")
        yield Site(Slot.ffn_post, "ffn_post", dim)

    yield Site(Slot.embed_in, "embedding.in_norm", patch, before=("embedding.project",))
    yield Site(Slot.embed_out, "embedding.out_norm", dim, after="embedding.project")
    yield from _in_blocks(net, "blocks", block)
    yield Site(Slot.final, "final_norm", dim, before=("head",))  # an affine map commutes with the mean over tokens


def _timm(net: Any) -> Iterator[Site]:
    """ViT, DeiT and what else is a VisionTransformer. CLIP's norm_pre comes after the positions: no slot of ours."""
    dim = net.embed_dim

    def block(b: Any) -> Iterator[Site]:
        classes = {cls.__name__ for cls in type(b).__mro__}
        if not classes & {"Block", "ResPostBlock"}:
            raise InputError(
                f"blocks of class {type(b).__name__}: where norms stand is known of Block and ResPostBlock"
            )
        post = "ResPostBlock" in classes  # its norms stand behind attention and feed-forward
        first, second = _submodule(b, "mlp.fc1"), _submodule(b, "mlp.fc2")
        if not post:
            gate = ("attn.gate",) if getattr(b.attn, "gate", None) is not None else ()
            yield Site(Slot.attn_in, "norm1", dim, before=("attn.qkv", *gate))
        if hasattr(b.attn, "q_norm"):
            yield Site(Slot.qk, "attn.q_norm", b.attn.head_dim, after="attn.qkv", part=0)
            yield Site(Slot.qk, "attn.k_norm", b.attn.head_dim, after="attn.qkv", part=1)
        yield Site(Slot.attn_out, "norm1" if post else "attn.norm_after", dim, after="attn.proj")
        if not post:
            yield Site(Slot.ffn_in, "norm2", dim, before=("mlp.fc1",) if first else ("mlp.fc1_g", "mlp.fc1_x"))
        if first and second and first.out_features == second.in_features:  # not gated
            yield Site(Slot.ffn_hidden, "mlp.act.norm_before", first.out_features, after="mlp.fc1")
        if second and hasattr(b.mlp, "norm"):
            yield Site(Slot.ffn_act, "mlp.norm", second.in_features, before=("mlp.fc2",))
        yield Site(Slot.ffn_out, "norm2" if post else "mlp.norm_after", dim, after="mlp.fc2")
        yield Site(Slot.ffn_post, "norm_after", dim)

    projects = "patch_embed.proj"
    yield from _patch_in(net, projects)
    yield Site(Slot.embed_out, _first(net, "patch_embed.norm", "patch_embed.norm_after"), dim, after=projects)
    yield from _in_blocks(net, "blocks", block)
    heads = ("head", "head_dist") if hasattr(net, "head_dist") else ("head",)
    if _after_pooling(net):
        yield Site(Slot.final, "fc_norm", dim, before=heads)
    else:
        linear = net.global_pool in ("", "token", "avg") and isinstance(net.fc_norm, nn.Identity)
        yield Site(Slot.final, "norm", dim, before=heads if linear else ())


def _after_pooling(net: Any) -> bool:
    """Whether timm's final norm stands behind the pooling."""
    before, after = (not isinstance(getattr(net, name), nn.Identity) for name in ("norm", "fc_norm"))
    return after and not before if before != after else net.global_pool in ("avg", "avgmax", "max")


def _huggingface(net: Any) -> Iterator[Site]:
    """ViT, DeiT, DINOv2; after transformers 5 renamed their modules, and before."""
    base = f"{net.base_model_prefix}." if hasattr(net, net.base_model_prefix) else ""
    dim = net.config.hidden_size

    def block(b: Any) -> Iterator[Site]:
        qkv = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
        if _submodule(b, qkv[0]) is None:
            qkv = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
        first = _first(b, "mlp.fc1", "mlp.gate_proj", "mlp.weights_in", "intermediate.dense")
        second = _first(b, "mlp.fc2", "mlp.down_proj", "mlp.weights_out", "output.dense")
        reads = ("mlp.gate_proj", "mlp.up_proj") if first == "mlp.gate_proj" else (first,)
        act = _first(b, "mlp.activation_fn", "mlp.activation", "intermediate.intermediate_act_fn")
        hidden = b.get_submodule(second).in_features
        head = b.get_submodule(qkv[0]).out_features // net.config.num_attention_heads
        yield Site(Slot.attn_in, _first(b, "layernorm_before", "norm1"), dim, before=qkv)
        for linear in qkv[:2]:
            yield Site(Slot.qk, f"{linear}.norm_after", head, after=linear, view="heads")
        projects = _first(b, "attention.o_proj", "attention.output.dense")
        yield Site(Slot.attn_out, f"{projects}.norm_after", dim, after=projects)
        yield Site(Slot.ffn_in, _first(b, "layernorm_after", "norm2"), dim, before=reads)
        if first in ("mlp.fc1", "intermediate.dense") and isinstance(_submodule(b, act), nn.Module):
            yield Site(Slot.ffn_hidden, f"{act}.norm_before", hidden, after=first)
        yield Site(Slot.ffn_act, f"{second}.norm_before", hidden, before=(second,))
        yield Site(Slot.ffn_out, f"{second}.norm_after", dim, after=second)
        if "attention.q_proj" in qkv:  # the blocks before returned tuples
            yield Site(Slot.ffn_post, "norm_after", dim)

    patches = f"{base}embeddings.patch_embeddings"
    yield from _patch_in(net, f"{patches}.projection")
    yield Site(Slot.embed_out, f"{patches}.norm_after", dim, after=f"{patches}.projection")
    yield from _in_blocks(net, _first(net, f"{base}layers", f"{base}encoder.layer"), block)
    heads = tuple(name for name in ("classifier", "cls_classifier", "distillation_classifier") if hasattr(net, name))
    yield Site(Slot.final, f"{base}layernorm", dim, before=heads)


def _torchvision(net: Any) -> Iterator[Site]:
    dim = net.hidden_dim

    def block(b: Any) -> Iterator[Site]:
        hidden = b.mlp[0].out_features
        yield Site(Slot.attn_in, "ln_1", dim, before=("self_attention",))
        yield Site(Slot.attn_out, "dropout.norm_after", dim, after="self_attention.out_proj")
        yield Site(Slot.ffn_in, "ln_2", dim, before=("mlp.0",))
        yield Site(Slot.ffn_hidden, "mlp.1.norm_before", hidden, after="mlp.0")
        yield Site(Slot.ffn_act, "mlp.1.norm_after", hidden, before=("mlp.3",))
        yield Site(Slot.ffn_out, "mlp.4.norm_after", dim, after="mlp.3")
        yield Site(Slot.ffn_post, "norm_after", dim)

    projects = _first(net, "conv_proj.conv_last", "conv_proj")
    yield from _patch_in(net, projects)
    yield Site(Slot.embed_out, f"{projects}.norm_after", dim, after=projects, view="channels")
    yield from _in_blocks(net, "encoder.layers", block)
    yield Site(Slot.final, "encoder.ln", dim, before=(_first(net, "heads.pre_logits", "heads.head", "heads"),))


def _vit_pytorch(net: Any) -> Iterator[Site]:
    patch, dim = net.to_patch_embedding[2].in_features, net.to_patch_embedding[2].out_features

    def block(b: Any) -> Iterator[Site]:
        attention, ffn = b[0], b[1].net
        hidden, head = ffn[1].out_features, attention.to_qkv.out_features // 3 // attention.heads
        last = _first(ffn, "4", "3")
        yield Site(Slot.attn_in, "0.norm", dim, before=("0.to_qkv",))
        yield Site(Slot.qk, "0.to_qkv.norm_q", head, after="0.to_qkv", part=0, view="heads")
        yield Site(Slot.qk, "0.to_qkv.norm_k", head, after="0.to_qkv", part=1, view="heads")
        if isinstance(attention.to_out, nn.Identity):
            yield Site(Slot.attn_out, "0.to_out.norm_after", dim, after="0.to_qkv", part=2)
        else:
            projects = _first(b, "0.to_out.0", "0.to_out")
            yield Site(Slot.attn_out, f"{projects}.norm_after", dim, after=projects)
        yield Site(Slot.ffn_in, "1.net.0", dim, before=("1.net.1",))
        yield Site(Slot.ffn_hidden, "1.net.2.norm_before", hidden, after="1.net.1")
        yield Site(Slot.ffn_act, "1.net.2.norm_after", hidden, before=(f"1.net.{last}",))
        yield Site(Slot.ffn_out, f"1.net.{last}.norm_after", dim, after=f"1.net.{last}")

    yield Site(Slot.embed_in, "to_patch_embedding.1", patch, before=("to_patch_embedding.2",))
    yield Site(Slot.embed_out, "to_patch_embedding.3", dim, after="to_patch_embedding.2")
    yield from _in_blocks(net, "transformer.layers", block)
    yield Site(Slot.final, "transformer.norm", dim, before=("mlp_head" if hasattr(net, "mlp_head") else "linear_head",))


KNOWN = "vitbn's, timm's and torchvision's VisionTransformer, Hugging Face's ViT, DeiT and DINOv2, vit-pytorch's ViT"
FAMILIES: dict[str, Callable[[Any], Iterator[Site]]] = {
    "vitbn.models.vit.VisionTransformer": _ours,
    "timm.models.vision_transformer.VisionTransformer": _timm,
    "transformers.models.vit.modeling_vit.ViTPreTrainedModel": _huggingface,
    "transformers.models.deit.modeling_deit.DeiTPreTrainedModel": _huggingface,
    "transformers.models.dinov2.modeling_dinov2.Dinov2PreTrainedModel": _huggingface,
    "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersPreTrainedModel":
        _huggingface,
    "torchvision.models.vision_transformer.VisionTransformer": _torchvision,
    "vit_pytorch.vit.ViT": _vit_pytorch,
    "vit_pytorch.simple_vit.SimpleViT": _vit_pytorch,
}  # fmt: skip
