"""BatchNorm in place of a trained network's LayerNorms, one by one, calibrated on images and without training.

Shape legend: B images, T tokens, D features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitbn.models.norms import TokenBatchNorm
from vitbn.models.placements import Slot
from vitbn.models.vit import VisionTransformer
from vitbn.progress import track
from vitbn.weights.network import Network

TRANSPLANT_BATCH = 250
_OUTSIDE = {Slot.embed_in: "embedding.in_norm", Slot.embed_out: "embedding.out_norm", Slot.final: "final_norm"}
_INSIDE = {
    Slot.attn_in: ("attn_in",), Slot.qk: ("attention.q_norm", "attention.k_norm"), Slot.attn_out: ("attn_out",),
    Slot.ffn_in: ("ffn_in",), Slot.ffn_hidden: ("ffn.hidden_norm",), Slot.ffn_act: ("ffn.act_norm",),
    Slot.ffn_out: ("ffn_out",),
}  # fmt: skip


@dataclass(frozen=True)
class Site:
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

    site: Site
    damage: Damage


def layernorm_sites(net: VisionTransformer) -> list[Site]:
    """Every place of a LayerNorm, in the order the data passes them."""
    sites = [Site(slot, None, (_OUTSIDE[slot],)) for slot in (Slot.embed_in, Slot.embed_out)]
    for layer in range(len(net.blocks)):
        sites += [Site(slot, layer, tuple(f"blocks.{layer}.{p}" for p in paths)) for slot, paths in _INSIDE.items()]
    sites.append(Site(Slot.final, None, (_OUTSIDE[Slot.final],)))
    return [site for site in sites if isinstance(net.get_submodule(site.paths[0]), nn.LayerNorm)]


class Recorder(TokenBatchNorm):
    """Stands in a norm's place, changes nothing, and adds up in float64 what it takes to replace `original` there.

    In training mode like a BatchNorm that is trained there, so that the network hands it all tokens.
    """

    def __init__(self, original: nn.LayerNorm, present: nn.Module) -> None:
        super().__init__(original.normalized_shape[0], affine=False, track_running_stats=False)
        self.original = original
        self.present = present.eval()
        self.count = 0
        # of the input x and of LayerNorm's output z before its affine map: means, and sums of products of deviations
        zeros = torch.zeros(self.num_features, dtype=torch.float64)
        self.mean_x = zeros.clone()
        self.mean_z = zeros.clone()
        self.xx = zeros.clone()
        self.xz = zeros.clone()

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.num_features).double()
        z = F.layer_norm(flat, self.original.normalized_shape, eps=self.original.eps)
        mean_x, mean_z, count = flat.mean(0), z.mean(0), len(flat)
        dx, dz = flat - mean_x, z - mean_z
        self._merge(count, mean_x.cpu(), mean_z.cpu(), (dx * dx).sum(0).cpu(), (dx * dz).sum(0).cpu())
        return self.present(x)

    def _merge(self, count: int, mean_x: Tensor, mean_z: Tensor, xx: Tensor, xz: Tensor) -> None:
        """Chan, Golub and LeVeque's update (1983): no difference of large sums."""
        total = self.count + count
        step_x, step_z, share = mean_x - self.mean_x, mean_z - self.mean_z, self.count * count / total
        self.xx += xx + step_x * step_x * share
        self.xz += xz + step_x * step_z * share
        self.mean_x += step_x * count / total
        self.mean_z += step_z * count / total
        self.count = total

    def batchnorm(self) -> TokenBatchNorm:
        """Statistics of the input; LayerNorm's affine map after the straight line that best leads from one
        normalised input to the other, feature by feature (least squares)."""
        original, var = self.original, self.xx / self.count
        weight, bias = original.weight.double().cpu(), original.bias.double().cpu()
        norm = TokenBatchNorm(self.num_features, eps=original.eps)
        slope = torch.where(self.xx > 0, self.xz / self.xx, 0) * (var + norm.eps).sqrt()
        values = {"weight": weight * slope, "bias": bias + weight * self.mean_z}
        norm = norm.to(original.weight)
        norm.load_state_dict(
            {**values, "running_mean": self.mean_x, "running_var": var, "num_batches_tracked": torch.tensor(0)}
        )
        return norm.eval()


class Transplant:
    """A network whose norms are replaced; its own modules change.

    `calibrate`, `measure`: uint8 images (B, C, K, K); `truth`: labels of the latter, or None.
    """

    def __init__(
        self, network: Network, sites: Sequence[Site], calibrate: Tensor, measure: Tensor, truth: Tensor | None
    ) -> None:
        assert isinstance(network.net, VisionTransformer)
        self.net = network.net.eval()
        self.normalise = network.normalise
        self.sites = list(sites)
        self._originals = {path: self.net.get_submodule(path) for site in sites for path in site.paths}
        self.calibrate = calibrate
        self.measure = measure
        self.truth = truth
        self.device = next(self.net.parameters()).device
        self._before = self._log_probabilities()
        self.original = self.damage()

    def alone(self) -> dict[Site, Damage]:
        """The damage of every replacement by itself."""
        return self._damage_of_each(self.sites)

    def in_greedy_order(self, progress: Callable[[Step], object] = lambda step: None) -> list[Step]:
        """Replace all, always the one that adds least to the divergence; afterwards every norm is calibrated anew."""
        steps: list[Step] = []
        while left := [site for site in self.sites if site not in [step.site for step in steps]]:
            damages = self._damage_of_each(left)
            best = min(left, key=lambda site: damages[site].kl)
            replaced = {best, *(step.site for step in steps)}
            for site in self.sites:  # in the order the data passes them: each sees its final input
                if site in replaced:
                    self._place(self.calibrated([site]))
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

    def _damage_of_each(self, sites: list[Site]) -> dict[Site, Damage]:
        """The damage if, of these sites, only that one is replaced now."""
        norms, damages = self.calibrated(sites), {}
        for site in track(sites, "trying norms", len(sites)):
            present = {path: self.net.get_submodule(path) for path in site.paths}
            self._place({path: norms[path] for path in site.paths})
            damages[site] = self.damage()
            self._place(present)
        return damages

    @torch.no_grad()
    def calibrated(self, sites: list[Site]) -> dict[str, nn.Module]:
        """For the modules of these sites, BatchNorms for the input that they have now."""
        present = {path: self.net.get_submodule(path) for site in sites for path in site.paths}
        recorders = {path: Recorder(self._original(path), module) for path, module in present.items()}
        self._place(recorders)
        for images in self.calibrate.split(TRANSPLANT_BATCH):
            self._run(images)
        self._place(present)
        return {path: recorder.batchnorm() for path, recorder in recorders.items()}

    def _original(self, path: str) -> nn.LayerNorm:
        original = self._originals[path]
        assert isinstance(original, nn.LayerNorm)
        return original

    def _place(self, modules: dict[str, nn.Module] | dict[str, Recorder]) -> None:
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
        return self.net(self.normalise(images.to(self.device)).to(dtype))
