"""The names of vit-pytorch's ViT and of its descendants, the article's own networks among them.

Its modules are numbered, so that what stands where shows in shapes: a matrix is a Linear, what lies beside it a norm.
BatchNorms, bare or in a wrapper, are told by their running statistics.

    vit-pytorch   to_patch_embedding.N   transformer.layers.N.0.{norm,to_qkv,to_out.0}   .1.net.N   mlp_head
    its elder     the same, with transformer.layers.N.{0,1}.{norm,fn.…} and mlp_head.{0,1}
    the article   transformer.layers.N.0.{norm,patch_emb,out_proj.0}   .1.{LN,Lin1,norm|BN,Lin2}   linear_head
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vitbn.weights.layouts import Layout, State

_NORM = r"(?:\.(?:BN|bn|norm))?"  # a wrapper's name for its BatchNorm
_PARTS = r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"
_SLOTS = {
    "embed_in": "embedding.in_norm", "embed_out": "embedding.out_norm", "attn_in": "blocks.0.attn_in",
    "ffn_in": "blocks.0.ffn_in", "ffn_hidden": "blocks.0.ffn.hidden_norm", "ffn_act": "blocks.0.ffn.act_norm",
    "ffn_out": "blocks.0.ffn_out", "final": "final_norm",
}  # fmt: skip


@dataclass(frozen=True)
class Numbered(Layout):
    """A layout whose names say too little without the shapes."""

    def ours(self, theirs: State) -> dict[str, str | None]:
        """Our name for each of theirs; None if there is none."""
        return {name: self.single.get(name) or _ours(name, theirs) for name in theirs}

    def placement(self, state: Mapping[str, Tensor]) -> dict[str, str]:
        """Which norm stands where, in weights under our names."""
        present = {slot: module for slot, module in _SLOTS.items() if f"{module}.weight" in state}
        return {slot: "batch" if f"{name}.running_mean" in state else "layer" for slot, name in present.items()}


def _ours(name: str, theirs: State) -> str | None:
    if (found := re.fullmatch(f"(.+?){_PARTS}", name)) is None:
        return None
    module, part = found.groups()
    if inside := re.fullmatch(r"(transformer\.layers\.(\d+)\.([01]))\.(.+)", module):
        block, number, half, inner = inside.groups()
        own = _in_attention(inner) if half == "0" else _in_ffn(f"{block}.", inner, theirs)
        return own and f"blocks.{number}.{own}.{part}"
    own = _outside(module, theirs)
    return own and f"{own}.{part}"


def _outside(module: str, theirs: State) -> str | None:
    if re.fullmatch(rf"transformer\.norm{_NORM}|mlp_head\.0", module):
        return "final_norm"
    if re.fullmatch(r"mlp_head(\.1)?|linear_head", module):
        return "head"
    if numbered := re.fullmatch(rf"to_patch_embedding\.(\d+){_NORM}", module):
        beside = int(numbered[1]) - (_linears("to_patch_embedding.", theirs) or [0])[0]
        return {-1: "embedding.in_norm", 0: "embedding.project", 1: "embedding.out_norm"}.get(beside)
    return None


def _in_attention(inner: str) -> str | None:
    names = {
        rf"norm{_NORM}": "attn_in",
        r"(fn\.)?(to_qkv|patch_emb)": "attention.to_qkv",
        r"(fn\.)?(to_out|out_proj)(\.0)?": "attention.to_out",
    }
    return next((own for pattern, own in names.items() if re.fullmatch(pattern, inner)), None)


def _in_ffn(block: str, inner: str, theirs: State) -> str | None:
    outer = any(name.startswith(f"{block}fn.") for name in theirs)  # the elder's norm is around the feed-forward
    names = {
        "LN": "ffn_in", "Lin1": "ffn.fc1", "Lin2": "ffn.fc2", "BN2": "ffn.act_norm", rf"norm2{_NORM}": "ffn_out",
        rf"BN1?|norm1{_NORM}": "ffn.hidden_norm", rf"norm{_NORM}": "ffn_in" if outer else "ffn.hidden_norm",
    }  # fmt: skip
    if own := next((own for pattern, own in names.items() if re.fullmatch(pattern, inner)), None):
        return own
    numbered = re.fullmatch(rf"((?:fn\.)?net\.)(\d+){_NORM}", inner)
    linears = _linears(block + numbered[1], theirs) if numbered else []
    if numbered is None or len(linears) != 2:
        return None
    place, (first, second) = int(numbered[2]), linears
    if place <= first:
        return "ffn.fc1" if place == first else "ffn_in"
    if place >= second:
        return "ffn.fc2" if place == second else None
    before_gelu = 2 if second - first > 4 else 1  # two layers more that transpose, one before and one behind the norm
    return {before_gelu: "ffn.hidden_norm", before_gelu + 1: "ffn.act_norm"}.get(place - first)


def _linears(prefix: str, theirs: State) -> list[int]:
    """The numbers of a Sequential's Linears."""
    found = (
        re.fullmatch(rf"{re.escape(prefix)}(\d+)\.weight", name) for name, value in theirs.items() if value.ndim == 2
    )
    return sorted(int(match[1]) for match in found if match)


VIT_PYTORCH = Numbered(
    "vit-pytorch", r"to_patch_embedding\.\d+\.weight", block="", inside={}, outside={},
    single={"cls_token": "embedding.cls", "pos_embedding": "embedding.positions.table",
            "pos_embedding_random": "embedding.positions.table"},
    norm_eps=1e-5, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), dim_head=64,
)  # fmt: skip
