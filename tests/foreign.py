"""Small Vision Transformers of other libraries, and what our options for the same network are."""

import json

import torch
from safetensors.torch import save_file

from vitbn.models.placements import named

SIZE = {"image_size": 28, "patch_size": 7, "num_classes": 3, "channels": 3, "dim": 16, "depth": 2, "mlp_dim": 24,
        "heads": 2, "dim_head": 8, "pool": "cls", "pos_emb": "learn", "qkv_bias": True, "dropout": 0.0,
        "emb_dropout": 0.0, "placement": named("vit_b16")}  # fmt: skip
EPS = {"Hugging Face": 1e-12, "timm": 1e-6, "torchvision": 1e-6}


def huggingface(name="ViTForImageClassification", **options):
    """With torch's own attention: the library's eager one takes its softmax in float32."""
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
             "image_size": 28, "patch_size": 7, "num_labels": 3, "attn_implementation": "sdpa"}  # fmt: skip
    if name.startswith("Dinov2"):
        sizes["mlp_ratio"] = 2
    config = getattr(transformers, name.partition("For")[0].removesuffix("Model") + "Config")
    return scattered(getattr(transformers, name)(config(**sizes | options)))


def timm(**options):
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 28, "patch_size": 7, "num_classes": 3, "embed_dim": 16, "depth": 2, "num_heads": 2,
             "mlp_ratio": 1.5}  # fmt: skip
    return scattered(VisionTransformer(**sizes | options))


def timm_distilled(**options):
    from timm.models.deit import VisionTransformerDistilled

    sizes = {"img_size": 28, "patch_size": 7, "num_classes": 3, "embed_dim": 16, "depth": 2, "num_heads": 2,
             "mlp_ratio": 1.5}  # fmt: skip
    return scattered(VisionTransformerDistilled(**sizes | options))


def vit_pytorch(name="ViT", **options):
    import vit_pytorch

    sizes = {"image_size": 28, "patch_size": 7, "num_classes": 3, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8,
             "mlp_dim": 24}  # fmt: skip
    return scattered(getattr(vit_pytorch, name)(**sizes | options))


def torchvision():
    from torchvision.models import VisionTransformer

    return scattered(VisionTransformer(image_size=28, patch_size=7, num_layers=2, num_heads=2, hidden_dim=16,
                                       mlp_dim=24, num_classes=3))  # fmt: skip


NETWORKS = {  # Vision Transformers whose slots are known
    "timm": timm,
    "timm, averaged": lambda: timm(global_pool="avg", class_token=False),
    "timm, norms everywhere": lambda: timm(qk_norm=True, init_values=0.5, scale_mlp_norm=True, pre_norm=True),
    "timm, distilled": timm_distilled,
    "Hugging Face": huggingface,
    "Hugging Face, distilled": lambda: huggingface("DeiTForImageClassificationWithTeacher"),
    "Hugging Face, DINOv2": lambda: huggingface("Dinov2ForImageClassification"),
    "torchvision": torchvision,
    "vit-pytorch": vit_pytorch,
    "vit-pytorch, simple": lambda: vit_pytorch("SimpleViT"),
}


def scattered(net):
    """In float64, every weight away from its start: biases and norms that are zeros and ones would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    net = net.double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return net


def logits(net, images, **options):
    with torch.no_grad():
        out = net(images, **options)
    return getattr(out, "logits", out)


def saved(folder, state, config=None, name="model.safetensors"):
    """A file of weights and config.json beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".safetensors"):
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / name)
    else:
        torch.save(state, folder / name)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder / name
