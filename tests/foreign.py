"""Small Vision Transformers of other libraries, and what our options for the same network are."""

import json

import torch
from safetensors.torch import save_file

SIZE = {"image_size": 28, "patch_size": 7, "num_classes": 3, "channels": 3, "dim": 16, "depth": 2, "mlp_dim": 24,
        "heads": 2, "dim_head": 8, "pool": "cls", "pos_emb": "learn", "qkv_bias": True, "dropout": 0.0,
        "emb_dropout": 0.0, "placement": {"attn_in": "layer", "ffn_in": "layer", "final": "layer"}}  # fmt: skip
EPS = {"Hugging Face": 1e-12, "timm": 1e-6, "torchvision": 1e-6}


def huggingface(**options):
    """With torch's own attention: the library's eager one takes its softmax in float32."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
             "image_size": 28, "patch_size": 7, "num_labels": 3, "attn_implementation": "sdpa"}  # fmt: skip
    return scattered(ViTForImageClassification(ViTConfig(**sizes | options)))


def timm(**options):
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 28, "patch_size": 7, "num_classes": 3, "embed_dim": 16, "depth": 2, "num_heads": 2,
             "mlp_ratio": 1.5}  # fmt: skip
    return scattered(VisionTransformer(**sizes | options))


def torchvision():
    from torchvision.models import VisionTransformer

    return scattered(VisionTransformer(image_size=28, patch_size=7, num_layers=2, num_heads=2, hidden_dim=16,
                                       mlp_dim=24, num_classes=3))  # fmt: skip


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
