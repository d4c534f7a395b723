"""BatchNorm in place of a trained network's LayerNorms, one by one, calibrated on images and without training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn

from vitbn.models.attach import norm_at
from vitbn.models.placements import Slot
from vitbn.models.sites import sites
from vitbn.models.surgery import Recorder
from vitbn.norms.batch import TokenBatchNorm
from vitbn.progress import track

TRANSPLANT_BATCH = 250


@dataclass(frozen=True)
class Place:
    """One slot of one block: the modules that stand there. Slots outside the blocks have no layer."""

    slot: Slot
    layer: int | None  # from 0
    paths: tuple[str, ...]

    def __str__(self) -> str:
        return self.slot if self.layer is None else f"{self.slot} {self.layer + 1}"


@dataclass(frozen=True)
class Damage:
    """What replacing norms did to the predictions for the images it is measured on."""

    kl: float  # mean Kullback-Leibler divergence of the new from the original probabilities, in nats
    changed: float  # share of the images whose most probable label is another one
    accuracy: float | None  # None where the true labels are not known


@dataclass(frozen=True)
class Step:
    """One replacement of the greedy order, and the damage of all replacements so far."""

    place: Place
    damage: Damage


def layernorm_places(net: nn.Module) -> list[Place]:
    """Every place of a LayerNorm, in the order the data passes them; InputError for a network that is not known."""
    norms = [site for site in sites(net) if isinstance(norm_at(net, site), nn.LayerNorm)]
    places = groupby(norms, lambda site: (site.slot, site.layer))
    return [Place(slot, layer, tuple(site.path for site in there)) for (slot, layer), there in places]


class Transplant:
    """A network whose norms are replaced; its own modules change.

    `calibrate`, `measure`: images (B, C, K, K), which `prepare` makes the network's inputs of; `truth`: labels of the
    latter, or None.
    """

    def __init__(
        self,
        net: nn.Module,
        places: Sequence[Place],
        calibrate: Tensor,
        measure: Tensor,
        truth: Tensor | None = None,
        *,
        prepare: Callable[[Tensor], Tensor] = lambda images: images,
    ) -> None:
        self.net = net.eval()
        self.prepare = prepare
        self.places = list(places)
        self._originals = {path: self.net.get_submodule(path) for place in places for path in place.paths}
        self.calibrate = calibrate
        self.measure = measure
        self.truth = truth
        self.device = next(self.net.parameters()).device
        self._before = self._log_probabilities()
        self.original = self.damage()

    def alone(self) -> dict[Place, Damage]:
        """The damage of every replacement by itself."""
        return self._damage_of_each(self.places)

    def in_greedy_order(self, progress: Callable[[Step], object] = lambda step: None) -> list[Step]:
        """Replace all, always the one that adds least to the divergence; afterwards every norm is calibrated anew."""
        steps: list[Step] = []
        while left := [place for place in self.places if place not in [step.place for step in steps]]:
            damages = self._damage_of_each(left)
            best = min(left, key=lambda place: damages[place].kl)
            replaced = {best, *(step.place for step in steps)}
            for place in self.places:  # in the order the data passes them: each sees its final input
                if place in replaced:
                    self._put(self.calibrated([place]))
            steps.append(Step(best, self.damage()))
            progress(steps[-1])
        return steps

    def damage(self) -> Damage:
        """Of the network as it is now."""
        now, before = self._log_probabilities(), self._before
        kl = (before.exp() * (before - now)).sum(1).mean().nan_to_num(nan=float("inf")).item()
        label = now.argmax(1)
        changed = (label != before.argmax(1)).double().mean().item()
        return Damage(kl, changed, None if self.truth is None else (label == self.truth).double().mean().item())

    def _damage_of_each(self, places: list[Place]) -> dict[Place, Damage]:
        """The damage if, of these places, only that one is replaced now."""
        norms, damages = self.calibrated(places), {}
        for place in track(places, "trying norms", len(places)):
            present = {path: self.net.get_submodule(path) for path in place.paths}
            self._put({path: norms[path] for path in place.paths})
            damages[place] = self.damage()
            self._put(present)
        return damages

    @torch.no_grad()
    def calibrated(self, places: list[Place]) -> dict[str, nn.Module]:
        """For the modules of these places, BatchNorms for the input that they have now."""
        present = {path: self.net.get_submodule(path) for place in places for path in place.paths}
        recorders = {path: Recorder(self._originals[path], module) for path, module in present.items()}
        self._put(recorders)
        for images in self.calibrate.split(TRANSPLANT_BATCH):
            self._run(images)
        self._put(present)
        return {path: self._batchnorm(path, recorder) for path, recorder in recorders.items()}

    def _batchnorm(self, path: str, recorder: Recorder) -> nn.Module:
        original = cast(nn.LayerNorm, self._originals[path])
        norm = TokenBatchNorm(original.normalized_shape[-1], eps=original.eps)
        recorder.fit(norm.to(next(self.net.parameters())))
        return norm.eval()

    def _put(self, modules: Mapping[str, nn.Module]) -> None:
        for path, module in modules.items():
            self.net.set_submodule(path, module)

    @torch.no_grad()
    def _log_probabilities(self) -> Tensor:
        """float64 (B, classes) of the images it is measured on, on the CPU."""
        return torch.cat(
            [self._run(images).double().log_softmax(-1).cpu() for images in self.measure.split(TRANSPLANT_BATCH)]
        )

    def _run(self, images: Tensor) -> Tensor:
        dtype = next(self.net.parameters()).dtype
        out = self.net(self.prepare(images.to(self.device)).to(dtype))
        return getattr(out, "logits", out)  # Hugging Face's networks return more
