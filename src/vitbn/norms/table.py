"""The table of norms: how each kind is made, what it mixes, whether it folds, how it pools over processes."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from torch import nn

from vitbn.errors import InputError
from vitbn.norms.batch import BatchRenorm, GhostBatchNorm, PowerNorm, ScalarBatchNorm, TokenBatchNorm
from vitbn.norms.kinds import Kind, split
from vitbn.norms.per_image import DynamicErf, DynamicTanh, LayerScale, TokenGroupNorm, TokenInstanceNorm, TokenRMSNorm
from vitbn.norms.rep_batch import ProgressiveRepBatchNorm, RepBatchNorm


@dataclass(frozen=True)
class Norm:
    """A kind of norm. The defaults are safe for every norm; an entry says more only where it is true.

    make     module(num_features, eps=..., options); its class identifies the entry
    mixes    when a token's result depends on other tokens or images; until then, tokens that nothing reads are skipped
    folds    in evaluation it is an affine map, whose scale and shift its `as_affine()` returns; None: not now
    pools    over processes: "alone", each norms its own images; "moments", as `SyncBatchNorm` does; "itself", when
             its `synced` is true; "refused"
    eps      whether it takes one
    """

    make: Callable[..., nn.Module]
    mixes: Literal["never", "training", "always"] = "always"
    folds: bool = False
    pools: Literal["alone", "moments", "itself", "refused"] = "refused"
    eps: bool = True


NORMS: dict[str, Norm] = {
    "none": Norm(nn.Identity, mixes="never", pools="alone"),
    "layer": Norm(nn.LayerNorm, mixes="never", pools="alone"),
    "batch": Norm(TokenBatchNorm, mixes="training", folds=True, pools="moments"),
    "batch_scalar": Norm(ScalarBatchNorm, mixes="training", folds=True, pools="moments"),
    "rms": Norm(TokenRMSNorm, mixes="never", pools="alone"),
    "group": Norm(TokenGroupNorm, pools="alone"),
    "instance": Norm(TokenInstanceNorm, pools="alone"),
    "dyt": Norm(DynamicTanh, mixes="never", pools="alone", eps=False),
    "derf": Norm(DynamicErf, mixes="never", pools="alone", eps=False),
    "layer_scale": Norm(LayerScale, mixes="never", folds=True, pools="alone", eps=False),
    "batch_renorm": Norm(BatchRenorm, mixes="training", folds=True, pools="itself"),
    "ghost_batch": Norm(GhostBatchNorm, mixes="training", folds=True, pools="itself"),
    "power": Norm(PowerNorm, mixes="training", folds=True, pools="itself"),
    "rep_batch": Norm(RepBatchNorm, mixes="training", folds=True, pools="alone"),  # the BatchNorm inside pools
    "prep_batch": Norm(ProgressiveRepBatchNorm, mixes="training", folds=True, pools="alone"),
}


def make_norm(kind: Kind, num_features: int, eps: float = 1e-5) -> nn.Module:
    """The norm of a kind over `num_features` features; ValueError lists the kinds, or the options of one."""
    name, options = split(kind)
    if name not in NORMS:
        raise ValueError(f"unknown kind {name!r}; choose from {', '.join(NORMS)}")
    norm = NORMS[name]
    try:
        return norm.make(num_features, **({"eps": eps} if norm.eps else {}), **options)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None


def import_norm(name: str) -> None:
    """Enter the class that `module.Class` names into `NORMS`, where its module has not done so itself.

    InputError says what cannot be imported. Pass no name that a stranger's file holds.
    """
    module, _, class_name = name.rpartition(".")
    try:
        norm = getattr(import_module(module), class_name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"norm {name}: {error}; Python looks for modules in PYTHONPATH") from None
    NORMS.setdefault(name, Norm(norm))


def entry(module: nn.Module) -> Norm | None:
    """The table's entry for a module, None for a class that it does not have."""
    return next((norm for norm in NORMS.values() if norm.make is type(module)), None)


def mixes_tokens(module: nn.Module) -> bool:
    """Whether a token's result now depends on other tokens or images; True for a class that the table does not have."""
    norm = entry(module)
    return norm is None or norm.mixes == "always" or (norm.mixes == "training" and module.training)


def scheduled_norms(net: nn.Module) -> list[nn.Module]:
    """The norms that change in the course of a training."""
    return [module for module in net.modules() if isinstance(module, BatchRenorm | ProgressiveRepBatchNorm)]


def set_progress(net: nn.Module, share: float) -> None:
    """Tell the norms that change in the course of a training which share of it, from 0 to 1, is over."""
    for norm in scheduled_norms(net):
        norm.get_buffer("progress").fill_(share)
