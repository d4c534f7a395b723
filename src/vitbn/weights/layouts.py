"""The names other libraries give to a Vision Transformer's weights, and ours for them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitbn.errors import InputError

HALF = (0.5, 0.5, 0.5)
State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """A library's names as patterns, and its networks' settings unless a file beside the weights says otherwise."""

    name: str
    cls_token: str  # by its name a layout is recognised
    block: str
    inside: dict[str, str]  # of a block: pattern -> our name
    outside: dict[str, str]
    single: dict[str, str]  # parameters that are no pair of weight and bias
    norm_eps: float
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    unused: str = "(?!)"  # weights that do not reach the logits

    def ours(self, name: str) -> str | None:
        """Our name for theirs; None if there is none."""
        if name in self.single or (pair := re.fullmatch(r"(.+)[._](weight|bias)", name)) is None:
            return self.single.get(name)
        module, part = pair.groups()
        in_block = re.fullmatch(self.block + r"\.(.+)", module)
        number, inner = in_block.groups() if in_block else ("", module)
        for pattern, own in (self.inside if number else self.outside).items():
            if re.fullmatch(pattern, inner):
                return f"blocks.{number}.{own}.{part}" if number else f"{own}.{part}"
        return None


HUGGING_FACE = Layout(
    "Hugging Face", "embeddings.cls_token",
    block=r"(?:encoder\.layer|layers)\.(\d+)",  # the hub's files have the first of two spellings, memory the second
    inside={
        "layernorm_before": "attn_in",
        r"attention\.(attention\.query|q_proj)": "attention.q",
        r"attention\.(attention\.key|k_proj)": "attention.k",
        r"attention\.(attention\.value|v_proj)": "attention.v",
        r"attention\.(output\.dense|o_proj)": "attention.to_out",
        "layernorm_after": "ffn_in",
        r"intermediate\.dense|mlp\.fc1": "ffn.fc1",
        r"output\.dense|mlp\.fc2": "ffn.fc2",
    },
    outside={r"embeddings\.patch_embeddings\.projection": "embedding.project", "layernorm": "final_norm",
             "classifier": "head"},
    single={"embeddings.cls_token": "embedding.cls", "embeddings.position_embeddings": "embedding.positions.table"},
    norm_eps=1e-12,
    unused=r"pooler\.dense\.(weight|bias)|embeddings\.mask_token",
)  # fmt: skip

TIMM = Layout(
    "timm", "cls_token", block=r"blocks\.(\d+)",
    inside={"norm1": "attn_in", r"attn\.qkv": "attention.to_qkv", r"attn\.proj": "attention.to_out", "norm2": "ffn_in",
            r"mlp\.fc1": "ffn.fc1", r"mlp\.fc2": "ffn.fc2"},
    outside={r"patch_embed\.proj": "embedding.project", "norm": "final_norm", "head": "head"},
    single={"cls_token": "embedding.cls", "pos_embed": "embedding.positions.table"},
    norm_eps=1e-6,
)  # fmt: skip

TORCHVISION = Layout(
    "torchvision", "class_token", block=r"encoder\.layers\.encoder_layer_(\d+)",
    inside={"ln_1": "attn_in", r"self_attention\.in_proj": "attention.to_qkv",
            r"self_attention\.out_proj": "attention.to_out", "ln_2": "ffn_in",
            r"mlp\.(0|linear_1)": "ffn.fc1", r"mlp\.(3|linear_2)": "ffn.fc2"},  # its published files have the second
    outside={"conv_proj": "embedding.project", r"encoder\.ln": "final_norm", r"heads\.head": "head"},
    single={"class_token": "embedding.cls", "encoder.pos_embedding": "embedding.positions.table"},
    norm_eps=1e-6, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
)  # fmt: skip

LAYOUTS = (HUGGING_FACE, TIMM, TORCHVISION)
NEEDED = ("embedding.project.weight", "embedding.positions.table", "blocks.0.attention.to_qkv.weight",
          "blocks.0.ffn.fc1.weight")  # fmt: skip


def translate(theirs: State, file: Path) -> tuple[Layout, State, dict[str, Any]]:
    """Layout, weights under our names, and the options of our VisionTransformer that their shapes tell.

    The heads are not among them, but `inner`, the features of q. InputError lists names that are unknown or missing.
    """
    theirs = {name.removeprefix("vit."): tensor for name, tensor in theirs.items()}
    layout = next((layout for layout in LAYOUTS if layout.cls_token in theirs), None)
    if layout is None:
        known = ", ".join(f"{layout.cls_token} ({layout.name})" for layout in LAYOUTS)
        first = ", ".join(list(theirs)[:5]) or "nothing"
        raise InputError(f"{file}: no Vision Transformer that is known; expected {known}, found {first}")
    names = {name: layout.ours(name) for name in theirs if not re.fullmatch(layout.unused, name)}
    if unknown := sorted(name for name, own in names.items() if own is None):
        raise InputError(f"{file}: has what our network has not, unknown: {enumerated(unknown)}")
    state = _merge_qkv({str(own): theirs[name] for name, own in names.items()})
    if missing := [name for name in NEEDED if name not in state]:
        raise InputError(f"{file}: incomplete, missing: {', '.join(missing)}")
    options = _options(state, file) | {"norm_eps": layout.norm_eps}
    kernel = state["embedding.project.weight"]  # D C p p -> D (p1 p2 c)
    return layout, {**state, "embedding.project.weight": kernel.permute(0, 2, 3, 1).flatten(1)}, options


def enumerated(names: Sequence[str], most: int = 20) -> str:
    """The names, or the first of them and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def _merge_qkv(state: State) -> State:
    """Queries, keys and values of a block as one matrix and one bias."""
    for query in [name for name in state if ".attention.q." in name]:
        names = [query.replace(".q.", f".{letter}.") for letter in "qkv"]
        if all(name in state for name in names):
            state[query.replace(".q.", ".to_qkv.")] = torch.cat([state.pop(name) for name in names])
    return state


def _options(state: State, file: Path) -> dict[str, Any]:
    kernel, positions, qkv, hidden = (state[name] for name in NEEDED)
    if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
        raise InputError(f"{file}: patches of {' x '.join(map(str, kernel.shape[2:]))}; only square ones are known")
    grid = round((positions.shape[1] - 1) ** 0.5)
    if grid**2 + 1 != positions.shape[1]:
        raise InputError(f"{file}: {positions.shape[1]} positions are not one for CLS and a square of patches")
    return {
        "image_size": grid * kernel.shape[2],
        "patch_size": kernel.shape[2],
        "num_classes": len(state["head.weight"]) if "head.weight" in state else 0,
        "channels": kernel.shape[1],
        "dim": len(kernel),
        "depth": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        "inner": len(qkv) // 3,
        "mlp_dim": len(hidden),
        "pool": "cls",
        "pos_emb": "learn",
        "qkv_bias": "blocks.0.attention.to_qkv.bias" in state,
        "placement": {"attn_in": "layer", "ffn_in": "layer", "final": "layer"},
    }
