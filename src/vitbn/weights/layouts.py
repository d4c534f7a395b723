"""The names other libraries give to a Vision Transformer's weights, and ours for them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """A library's names as patterns, and its networks' settings unless a file beside the weights says otherwise."""

    name: str
    mark: str  # pattern of the name by which a layout is recognised, whatever stands before it
    block: str
    inside: dict[str, str]  # of a block: pattern -> our name
    outside: dict[str, str]
    single: dict[str, str]  # parameters that are no pair of weight and bias
    norm_eps: float
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    unused: str = "(?!)"  # weights that do not reach the logits
    inner: str = ""  # stands before some of the names
    dim_head: int | None = None  # unless something else is said

    def ours(self, theirs: State) -> dict[str, str | None]:
        """Our name for each of theirs; None if there is none."""
        names = {name: name.removeprefix(self.inner) for name in theirs}
        return {name: self._ours(inner) for name, inner in names.items() if not re.fullmatch(self.unused, inner)}

    def placement(self, state: Mapping[str, Tensor]) -> dict[str, str]:
        """Which norm stands where, in weights under our names."""
        return {"attn_in": "layer", "ffn_in": "layer", "final": "layer"}

    def _ours(self, name: str) -> str | None:
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
    "Hugging Face", r"embeddings\.cls_token",
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
    inner="vit.",
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
