"""What people would use instead: torchvision's transforms per image, a DataLoader, vit-pytorch's and timm's ViT."""

from collections.abc import Callable
from functools import partialmethod
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from vitbn.data.affine import MAX_ANGLE, MAX_SHIFT, MAX_ZOOM, MIN_ZOOM, ZOOM_PROBABILITY
from vitbn.data.splits import Split
from vitbn.errors import InputError
from vitbn.models.attention import Attention

Transform = Callable[[Image.Image], Tensor]
Builder = Callable[[dict[str, Any]], nn.Module]


def article_transform(side: int) -> Transform:
    """The article's augmentation as torchvision offers it, for one PIL image."""
    return v2.Compose(
        [
            v2.RandomRotation(MAX_ANGLE),
            v2.RandomAffine(degrees=0, translate=(MAX_SHIFT, MAX_SHIFT)),
            v2.RandomZoomOut(0, (MIN_ZOOM, MAX_ZOOM), p=ZOOM_PROBABILITY),
            v2.Resize((side, side)),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


class PictureData(Dataset):
    """A split the way torchvision's MNIST hands it out: one PIL image at a time, transformed when asked for."""

    def __init__(self, split: Split, transform: Transform) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self.split.images[index]
        picture = Image.fromarray(pixels.squeeze(0).numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())
        return self.transform(picture), int(self.split.labels[index])


def loader(split: Split, batch_size: int, *, shuffle: bool = False, workers: int = 0) -> DataLoader:
    """torch's DataLoader over the transformed pictures."""
    data = PictureData(split, article_transform(split.images.shape[-1]))
    pinned = torch.cuda.is_available()
    return DataLoader(data, batch_size, shuffle=shuffle, num_workers=workers, pin_memory=pinned and workers > 0)


def vit_pytorch(size: dict[str, Any]) -> nn.Module:
    """vit-pytorch's ViT of that size: the same function as ours, in the usual formulation."""
    try:
        from vit_pytorch import ViT
    except ImportError:
        raise _missing("vit-pytorch") from None
    return ViT(**size)


def timm(size: dict[str, Any], *, wide_heads: bool = True) -> nn.Module:
    """timm's VisionTransformer of that size; its own heads are dim // heads wide unless told otherwise."""
    try:
        from timm.layers.attention import Attention as TimmAttention
        from timm.models.vision_transformer import VisionTransformer
    except ImportError:
        raise _missing("timm") from None

    class WideHeads(TimmAttention):  # timm wants a class here and no partial
        __init__ = partialmethod(TimmAttention.__init__, attn_head_dim=size["dim_head"])

    return VisionTransformer(
        img_size=size["image_size"], patch_size=size["patch_size"], in_chans=size["channels"],
        num_classes=size["num_classes"], embed_dim=size["dim"], depth=size["depth"], num_heads=size["heads"],
        mlp_ratio=size["mlp_dim"] / size["dim"], qkv_bias=False,
        attn_layer=WideHeads if wide_heads else TimmAttention,
    )  # fmt: skip


def standard_route(net: nn.Module) -> nn.Module:
    """Our network with its attention in the usual formulation."""
    for module in net.modules():
        if isinstance(module, Attention):
            module.route = "standard"
    return net


def parameters(net: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in net.parameters())


def _missing(package: str) -> InputError:
    return InputError(f"bench.py compares with {package}, which is not installed: pip install -e '.[bench]'")
