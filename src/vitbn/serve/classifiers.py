"""Networks that classify one digit: its probabilities and their attention maps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitbn.data.mnist import DIGITS
from vitbn.errors import InputError
from vitbn.inference.attention_maps import attention_maps
from vitbn.models.merged_attention import freeze_attention
from vitbn.models.vit import VisionTransformer
from vitbn.store.labels import NAMES
from vitbn.weights.network import Network, load_network


@dataclass(frozen=True)
class DigitClassifier:
    """A network under the name that a person knows it by; threads may share it, since answering changes nothing.

    `file`: the last part of where it was loaded from. `parameters`: as many as were trained.
    """

    network: Network
    name: str
    file: str
    parameters: int

    @torch.inference_mode()
    def classify(self, digit: NDArray[np.uint8]) -> dict[str, Any]:
        """The answer, the probability of each digit, and where attention went (None without attention)."""
        net = self.network.net
        pixels = torch.from_numpy(digit).expand(1, self.network.channels, *digit.shape)
        images = self.network.normalise(pixels)
        maps = attention_maps(net, images) if isinstance(net, VisionTransformer) else None
        probabilities = (net(images) if maps is None else maps.logits)[0].double().softmax(-1)
        answer = int(probabilities.argmax())
        return {
            "name": self.name,
            "digit": answer,
            "probability": probabilities[answer].item(),
            "probabilities": probabilities.tolist(),
            "attention": None
            if maps is None
            else {
                "of": "CLS token" if net.pool == "cls" else "mean of all tokens",
                "last_block": maps.last[0].tolist(),
                "rollout": maps.rollout[0].tolist(),
            },
        }


def load_classifiers(ckpts: Sequence[str]) -> tuple[DigitClassifier, ...]:
    """InputError names a network that does not answer with the ten digits."""
    classifiers = []
    for ckpt in ckpts:
        network = load_network(ckpt)
        if network.labels != DIGITS:
            labels = ", ".join(network.labels)
            raise InputError(f"{network.source}: answers {labels}; only networks for the digits 0 to 9 are served")
        model = network.config["model"]["name"]
        parameters = sum(parameter.numel() for parameter in network.net.parameters())
        blank = network.normalise(torch.zeros(1, network.channels, 28, 28, dtype=torch.uint8))
        frozen = freeze_attention(network.net, blank)
        file = Path(ckpt).resolve().name
        classifiers.append(DigitClassifier(replace(network, net=frozen), NAMES.get(model, model), file, parameters))
    return tuple(classifiers)
