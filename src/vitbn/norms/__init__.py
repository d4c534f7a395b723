"""The norms that a slot of a Vision Transformer can hold, for any network: torch alone.

    from vitbn.norms import TokenBatchNorm
    timm.create_model("vit_tiny_patch16_224", norm_layer=TokenBatchNorm)

Every class takes the number of features D, `eps` where it divides by a spread, and options by name; it maps
(..., D) to (..., D). `make_norm("ghost_batch", D)` makes one by the name of its kind; docs/norms.md lists them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitbn.norms.batch import BatchRenorm, GhostBatchNorm, PowerNorm, ScalarBatchNorm, TokenBatchNorm
    from vitbn.norms.per_image import (
        DynamicErf,
        DynamicTanh,
        LayerScale,
        TokenGroupNorm,
        TokenInstanceNorm,
        TokenRMSNorm,
    )
    from vitbn.norms.rep_batch import ProgressiveRepBatchNorm, RepBatchNorm
    from vitbn.norms.table import NORMS, Norm, make_norm, set_progress

_MODULES = {
    **dict.fromkeys(("TokenBatchNorm", "ScalarBatchNorm", "GhostBatchNorm", "BatchRenorm", "PowerNorm"), "batch"),
    **dict.fromkeys(("RepBatchNorm", "ProgressiveRepBatchNorm"), "rep_batch"),
    **dict.fromkeys(
        ("TokenRMSNorm", "TokenGroupNorm", "TokenInstanceNorm", "DynamicTanh", "DynamicErf", "LayerScale"), "per_image"
    ),
    **dict.fromkeys(("NORMS", "Norm", "make_norm", "set_progress"), "table"),
}
__all__ = [
    "NORMS", "BatchRenorm", "DynamicErf", "DynamicTanh", "GhostBatchNorm", "LayerScale", "Norm", "PowerNorm",
    "ProgressiveRepBatchNorm", "RepBatchNorm", "ScalarBatchNorm", "TokenBatchNorm", "TokenGroupNorm",
    "TokenInstanceNorm", "TokenRMSNorm", "make_norm", "set_progress",
]  # fmt: skip


def __getattr__(name: str) -> Any:  # `norms.kinds` is read where torch must not be imported
    if name in _MODULES:
        return getattr(import_module(f"vitbn.norms.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'vitbn.norms' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
