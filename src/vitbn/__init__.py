"""vitbn: does BatchNorm help my Vision Transformer, where do I put it, and can I believe the answer?

`from vitbn import ViT, ViTBNFFN, ViTBN` works without Hydra or Lightning; nothing heavy is imported before.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitbn.models.surgery import replace_norms
    from vitbn.models.vit import VisionTransformer, ViT, ViTBN, ViTBNFFN

__version__ = "0.1.0"
__all__ = ["ViT", "ViTBN", "ViTBNFFN", "VisionTransformer", "replace_norms"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from vitbn.models import surgery, vit

        return getattr(surgery if name == "replace_norms" else vit, name)
    raise AttributeError(f"module 'vitbn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
