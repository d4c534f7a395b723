"""Networks that read digits, and what each says about one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitbn.analysis.arms import NAMES
from vitbn.data.mnist import DIGITS
from vitbn.errors import InputError
from vitbn.inference.attention_maps import attended
from vitbn.models.vit import VisionTransformer
from vitbn.weights.network import Network, load_network


@dataclass(frozen=True)
class Reader:
    """A network under the names that a person knows it by. Many threads may ask it at once: answering changes nothing.

    `file`: the last part of where it was loaded from.
    """

    network: Network
    name: str
    file: str

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.net.parameters())

    @torch.inference_mode()
    def read(self, digit: NDArray[np.uint8]) -> dict[str, Any]:
        """The answer, the probability of each digit, and where attention went (None without attention)."""
        network = self.network
        pixels = torch.from_numpy(digit).expand(1, network.channels, *digit.shape)
        images = network.normalise(pixels)
        probabilities = network.net(images)[0].double().softmax(-1)
        answer = int(probabilities.argmax())
        return {
            "name": self.name,
            "digit": answer,
            "probability": probabilities[answer].item(),
            "probabilities": probabilities.tolist(),
            "attention": _attention(network.net, images) if isinstance(network.net, VisionTransformer) else None,
        }


def _attention(net: VisionTransformer, images: torch.Tensor) -> dict[str, Any]:
    found = attended(net, images)
    return {
        "of": "CLS token" if net.pool == "cls" else "mean of all tokens",
        "last_block": found.last[0].tolist(),
        "rollout": found.rollout[0].tolist(),
    }


def load_readers(places: Sequence[str]) -> tuple[Reader, ...]:
    """A reader for each place; InputError names a network that does not answer with the ten digits."""
    readers = []
    for place in places:
        network = load_network(place)
        if network.labels != DIGITS:
            answers = ", ".join(network.labels)
            raise InputError(f"{network.source}: answers {answers}; only networks for the digits 0 to 9 are served")
        model = network.config["model"]["name"]
        reader = Reader(network, NAMES.get(model, model), Path(place).resolve().name)
        reader.read(np.zeros((28, 28), np.uint8))  # makes the products that evaluation keeps, before anyone waits
        readers.append(reader)
    return tuple(readers)
