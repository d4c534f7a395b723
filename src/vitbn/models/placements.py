"""Where a norm may stand (slots) and which norm stands where (placements).

Free of torch, so that a mistyped slot or kind is reported before anything heavy is imported.
A new placement is one file in conf/norm/.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import cache

import yaml

from vitbn.norms.kinds import Kind, normal_form, split
from vitbn.resources import resource_folder


class Slot(StrEnum):
    """A place in the network where a norm may stand, in the order the data passes them."""

    embed_in = "embed_in"  # flattened patches, before the patch projection
    embed_out = "embed_out"  # after the patch projection, before CLS and positions
    attn_in = "attn_in"  # the pre-norm of attention
    qk = "qk"  # queries and keys, per head
    attn_out = "attn_out"  # just before attention's residual sum
    attn_post = "attn_post"  # just after it
    ffn_in = "ffn_in"  # the pre-norm of the feed-forward
    ffn_hidden = "ffn_hidden"  # between the first Linear and GELU
    ffn_act = "ffn_act"  # after GELU
    ffn_out = "ffn_out"  # just before the feed-forward's residual sum
    ffn_post = "ffn_post"  # just after it
    final = "final"  # all tokens, before pooling


class Pool(StrEnum):
    """What the head reads: the CLS token or the mean over all tokens."""

    cls = "cls"
    mean = "mean"


class PosEmb(StrEnum):
    """Learned positions or the fixed sin-cos table."""

    learn = "learn"
    pe1d = "pe1d"


Placement = Mapping[str, Kind]

# Networks of conf/model/ that have no slots; Hydra wants a norm of every model's name.
WITHOUT_SLOTS = ("dnn", "dnn_bn", "mlp", "mlp_bn", "alexnet", "vgg16", "resnet34")
# Choices of conf/model/ whose networks another library makes; a slot without a kind keeps what is there.
OF_LIBRARIES = ("timm", "hf", "torchvision")


@cache  # asked for every run of a study
def named_placements() -> tuple[str, ...]:
    """The names of conf/norm/."""
    return tuple(sorted(path.stem for path in (resource_folder("conf") / "norm").glob("*.yaml")))


def named(name: str) -> dict[str, Kind]:
    """The placement conf/norm/NAME.yaml, all slots with their kind; ValueError lists the names."""
    return dict(_read(name))


@cache
def _read(name: str) -> Placement:
    if name not in named_placements():
        raise ValueError(f"placement: unknown name {name!r}; choose from {', '.join(named_placements())}")
    placement = yaml.safe_load((resource_folder("conf") / "norm" / f"{name}.yaml").read_text())
    return {str(slot): kind for slot, kind in complete(placement).items()}


def complete(placement: Placement, base: Placement | None = None) -> dict[Slot, Kind]:
    """All slots with their kind; a slot left out has that of `base`, or none. ValueError names what is not known."""
    for slot, kind in placement.items():
        if slot not in set(Slot):
            raise ValueError(f"placement: unknown slot {slot!r}; choose from {', '.join(Slot)}")
        try:
            split(kind)
        except ValueError as error:
            raise ValueError(f"placement.{slot}: {error}") from None
    kinds = {**(base or {}), **placement}
    return {slot: normal_form(kinds.get(slot, "none")) for slot in Slot}
