"""One loader for everything that uses a trained network: the network, how images become its input, its labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitbn.data.batches import Preprocess
from vitbn.errors import InputError
from vitbn.models.architectures import build_known
from vitbn.weights.files import CONFIG, Weights, described_network, read_weights_file
from vitbn.weights.hub import locate
from vitbn.weights.runs import is_run, read_run_weights
from vitbn.weights.translate import enumerated

MAX_BUFFERS = 10**8  # elements of the buffers that are computed instead of read, such as a sin-cos table


@dataclass(frozen=True)
class Network:
    """A network in evaluation mode, in float32 on the CPU, with what it takes to use it."""

    net: nn.Module
    labels: tuple[str, ...]
    image_size: int
    channels: int
    mean: tuple[float, ...]  # of each channel, for pixels in [0, 1]
    std: tuple[float, ...]
    config: dict[str, Any]  # of the run; imported weights have only its part `model`
    source: Path  # the file the weights are from

    @property
    def options(self) -> dict[str, Any]:
        """What its constructor is given."""
        return described_network(self.config)[1]

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images (B, channels, K, K) as the network's input, float32 (B, channels, image_size, image_size)."""
        return Preprocess(self.mean, self.std, self.image_size)(images, None)

    def standardise(self, images: Tensor) -> Tensor:
        """Images in [0, 1] and of the right size as the network's input."""
        mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (self.mean, self.std))
        return (images - mean) / std


def read_weights(place: Path | str) -> Weights:
    """The weights of a run (its folder: the newest checkpoint; or one of its checkpoints), of a file or a hub ID."""
    path = locate(place)
    return read_run_weights(path) if is_run(path) else read_weights_file(path)


def load_network(place: Path | str) -> Network:
    """The network of what `read_weights` takes: one of conf/model/, by name. Nothing in the files is executed.

    InputError names what is missing, damaged, not finite or does not fit.
    """
    weights = read_weights(place)
    options, source = weights.options, weights.source
    if weights.architecture == "VisionTransformer" and "heads" not in options:
        remedy = f'put {CONFIG} with {{"num_attention_heads": ...}} beside it'
        raise InputError(f"{source}: nothing tells how many heads it has; {remedy}")
    if not options["num_classes"]:
        raise InputError(f"{source}: has no classifier; train one with model.pretrained={source}")
    net = _build(weights)
    load_state(net, weights.state, f"{source}: does not fit the network that it is described as")
    config = weights.config or {"model": {"name": "imported", "_target_": "vitbn.VisionTransformer", **options}}
    return Network(
        net.eval(), weights.labels, options["image_size"], options["channels"], weights.mean, weights.std, config,
        source,
    )  # fmt: skip


def _build(weights: Weights) -> nn.Module:
    """The network, made only if the file holds as many weights as it has: shapes alone take no memory."""
    try:
        with torch.device("meta"):
            outline = build_known(weights.architecture, weights.options)
        require_fit(outline, weights.state, f"{weights.source}: does not fit the network that it is described as")
        if sum(buffer.numel() for buffer in outline.buffers()) > MAX_BUFFERS:
            raise ValueError("its positions would not fit into memory")
        return build_known(weights.architecture, weights.options)
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{weights.source}: describes no network that can be made ({reason})") from None


def require_fit(net: nn.Module, state: dict[str, Tensor], complaint: str) -> None:
    """InputError opens with the complaint and lists what is missing, unknown or of another shape."""
    own = net.state_dict()
    common = [(name, state[name], own[name]) for name in sorted(own.keys() & state.keys())]
    differences = {
        "missing": sorted(own.keys() - state.keys()),
        "unknown": sorted(state.keys() - own.keys()),
        "of another shape": [f"{n} {tuple(a.shape)} for {tuple(b.shape)}" for n, a, b in common if a.shape != b.shape],
        "of another kind": [f"{n} {a.dtype}" for n, a, b in common if a.is_floating_point() != b.is_floating_point()],
    }
    found = {what: names for what, names in differences.items() if names}
    if found:
        listed = "; ".join(f"{what}: {enumerated(names, 3 - min(2, len(found)))}" for what, names in found.items())
        raise InputError(f"{complaint}; {listed}")


def load_state(net: nn.Module, state: dict[str, Tensor], complaint: str) -> None:
    """Load `state` into `net`; InputError opens with the complaint and lists what does not fit or is not finite."""
    require_fit(net, state, complaint)
    net.load_state_dict(state)
    for name, value in net.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"{complaint}; not finite: {name}")
        if name.endswith("running_var") and (value < 0).any():
            raise InputError(f"{complaint}; a negative variance: {name}")
