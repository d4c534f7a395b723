"""vitbn: does BatchNorm help my Vision Transformer, where do I put it, and can I believe the answer?

    from vitbn import ViT, replace_norms
    net = ViT(depth=4, placement={"ffn_in": "none", "ffn_hidden": "batch"})   # help(vitbn.ViT) lists the options
    replace_norms(timm_model, {"ffn_hidden": "batch"})
    from vitbn.norms import TokenBatchNorm

Neither Hydra nor Lightning is imported for these, and torch not before one of them is used.
ViT, ViTBNFFN, ViTBN   the networks of the article; VisionTransformer is their common class
replace_norms          norms in the slots of a timm, Hugging Face, torchvision, vit-pytorch or own Vision Transformer
norms                  the norms as modules for any network
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitbn import norms
    from vitbn.models.surgery import replace_norms
    from vitbn.models.vit import VisionTransformer, ViT, ViTBN, ViTBNFFN

__version__ = "0.1.0"
__all__ = ["ViT", "ViTBN", "ViTBNFFN", "VisionTransformer", "norms", "replace_norms"]


def __getattr__(name: str) -> Any:
    if name == "norms":
        return import_module("vitbn.norms")
    if name in __all__:
        from vitbn.models import surgery, vit

        return getattr(surgery if name == "replace_norms" else vit, name)
    raise AttributeError(f"module 'vitbn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
