"""Attention maps: how much the token that the head reads attends to each patch, in the last block and by rollout.

Shape legend: B images, H heads, T = G * G + 1 tokens.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from vitbn.models.vit import Block, VisionTransformer


@dataclass(frozen=True)
class AttentionMaps:
    """Weights over the patches, (B, G, G), mean over heads; with what goes to the CLS token they sum to 1."""

    last: Tensor  # in the last block
    rollout: Tensor  # through all blocks
    logits: Tensor  # (B, num_classes), the network's answer


@torch.no_grad()
def attention_maps(net: VisionTransformer, images: Tensor) -> AttentionMaps:
    """Attention of the CLS token; of a network with pool="mean" the mean over all tokens'.

    Rollout (Abnar and Zuidema, 2020) multiplies the blocks' weights, half of each an identity for the residual.
    """
    x = net.embedding(images)
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    rollout = weights = identity.expand(len(x), -1, -1)
    for block in cast(list[Block], net.blocks):
        weights = block.attention.weights(block.attn_in(x)).mean(1)  # B T T
        rollout = (weights + identity) / 2 @ rollout
        x = block(x)
    return AttentionMaps(_over_patches(weights, net), _over_patches(rollout, net), net.read(x))


def _over_patches(weights: Tensor, net: VisionTransformer) -> Tensor:
    pooled = weights[:, 0] if net.pool == "cls" else weights.mean(1)
    return pooled[:, 1:].unflatten(1, (net.embedding.grid, net.embedding.grid))
