"""Where a norm may stand (slots), which norm stands there (kinds), and the named placements.

Free of torch, so that a mistyped slot or kind is reported before anything heavy is imported.
A new placement is one entry of `PLACEMENTS`; a new kind is one member of `Kind` and its entry in `NORMS` of
`models/norms.py`, or a class of one's own, written `module.Class`.
"""

from collections.abc import Mapping
from enum import StrEnum


class Slot(StrEnum):
    """A place in the network where a norm may stand, in the order the data passes them."""

    embed_in = "embed_in"  # flattened patches, before the patch projection
    embed_out = "embed_out"  # after the patch projection, before CLS and positions
    attn_in = "attn_in"  # the pre-norm of attention
    qk = "qk"  # queries and keys, per head
    attn_out = "attn_out"  # just before attention's residual sum
    ffn_in = "ffn_in"  # the pre-norm of the feed-forward
    ffn_hidden = "ffn_hidden"  # between the first Linear and GELU
    ffn_act = "ffn_act"  # after GELU
    ffn_out = "ffn_out"  # just before the feed-forward's residual sum
    final = "final"  # all tokens, before pooling


class Kind(StrEnum):
    """Which norm stands in a slot; `models/norms.py` makes it."""

    none = "none"
    layer = "layer"
    batch = "batch"
    batch_scalar = "batch_scalar"


class Pool(StrEnum):
    """What the head reads: the CLS token or the mean over all tokens."""

    cls = "cls"
    mean = "mean"


class PosEmb(StrEnum):
    """Learned positions or the fixed sin-cos table."""

    learn = "learn"
    pe1d = "pe1d"


Placement = Mapping[str, str]

_LAYER = {"embed_in": "layer", "embed_out": "layer", "attn_in": "layer", "final": "layer"}
_PUBLISHED = {"attn_in": "layer", "ffn_in": "layer", "final": "layer"}  # as the published networks have them
_BATCH = dict.fromkeys(_LAYER, "batch")

# The article's README could be read as BatchNorm in `ffn_in` for ViTBN; its author's code has it in
# `ffn_hidden`, which is followed here. Sweep both with `norm.ffn_in=batch norm.ffn_hidden=none`.
PLACEMENTS: dict[str, Placement] = {
    "vit": {**_LAYER, "ffn_in": "layer"},
    "vitbnffn": {**_LAYER, "ffn_hidden": "batch"},
    "vitbn": {**_BATCH, "ffn_hidden": "batch"},
    "vitbn_scalar": {**dict.fromkeys(_LAYER, "batch_scalar"), "ffn_hidden": "batch_scalar"},
    "vit_b16": _PUBLISHED,
    "vit_batch": {**_BATCH, "ffn_in": "batch"},
    "vit_b16_batch": dict.fromkeys(_PUBLISHED, "batch"),
    "none": {},
}

# Networks of conf/model/ that have no slots; Hydra wants a norm of every model's name.
WITHOUT_SLOTS = ("dnn", "dnn_bn", "mlp", "mlp_bn", "alexnet", "vgg16", "resnet34")
# Choices of conf/model/ whose networks another library makes; a slot without a kind keeps what is there.
OF_LIBRARIES = ("timm", "hf", "torchvision")


def is_kind(kind: str) -> bool:
    """Whether it is a member of `Kind`, or written as `module.Class` is; nothing is imported."""
    return kind in set(Kind) or ("." in kind and all(part.isidentifier() for part in kind.split(".")))


def complete(placement: Placement | str) -> dict[Slot, str]:
    """All slots with their kind; a slot left out is `none`. ValueError names an unknown placement, slot or kind."""
    if isinstance(placement, str):
        if placement not in PLACEMENTS:
            raise ValueError(f"placement: unknown name {placement!r}; choose from {', '.join(PLACEMENTS)}")
        placement = PLACEMENTS[placement]
    for slot, kind in placement.items():
        if slot not in set(Slot):
            raise ValueError(f"placement: unknown slot {slot!r}; choose from {', '.join(Slot)}")
        if not is_kind(kind):
            raise ValueError(f"placement.{slot}: unknown kind {kind!r}; choose from {', '.join(Kind)}")
    return {slot: str(placement.get(slot, Kind.none)) for slot in Slot}
