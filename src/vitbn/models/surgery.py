"""Norms put into a Vision Transformer, ours or another library's, and calibrated on inputs."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vitbn.errors import InputError
from vitbn.models.attach import norm_at, put_norm
from vitbn.models.merged_attention import suited
from vitbn.models.placements import Placement, Slot, complete, named
from vitbn.models.sites import Site, sites
from vitbn.models.vit import Block, VisionTransformer
from vitbn.norms.rep_batch import ProgressiveRepBatchNorm, RepBatchNorm
from vitbn.norms.table import entry, make_norm

Net = TypeVar("Net", bound=nn.Module)


def replace_norms(model: Net, placement: Placement | str, *, calibrate: Iterable[Any] | None = None) -> Net:
    """Put norms into a Vision Transformer, in place: the kind of each slot, where "none" takes a norm out.

    Slots that are left out stay as they are, and so do norms of the same kind, which keep their weights.
    placement  slot -> kind, or the name of a placement, which says it for all slots
    calibrate  batches of inputs, gone through once per norm: a norm with running statistics then starts as near to
               what stood there as it can be; without them it starts fresh, as in a training
    ValueError names an unknown model, slot or kind, and what is known.
    """
    asked = named(placement) if isinstance(placement, str) else placement
    kinds = {slot: kind for slot, kind in complete(asked).items() if slot in asked}
    places = sites(model)
    offered = [slot for slot in Slot if any(site.slot == slot for site in places)]
    if lacking := [slot for slot, kind in kinds.items() if kind != "none" and slot not in offered]:
        known = ", ".join(offered)
        raise InputError(f"slot '{lacking[0]}': {type(model).__name__} has no place for it; it has {known}")
    old = {site: norm_at(model, site) for site in places if site.slot in kinds}
    eps = {site: getattr(norm_at(model, site), "eps", None) for site in places}
    usual = next(filter(None, eps.values()), 1e-5)
    new: dict[Site, nn.Module] = {}
    for site, before in old.items():
        norm = make_norm(kinds[site.slot], site.features, eps[site] or usual)
        if not _is_already(before, norm):
            like = next(chain(before.parameters(), _parameters_near(model, site), model.parameters()))
            new[site] = _with_weights_of(before, norm.to(like.device, like.dtype)).train(model.training)
    _put(model, new)
    if calibrate is not None:
        try:
            for site, norm in new.items():  # in the order the data passes them: each sees its final input
                if _has_statistics(norm):
                    _fit(model, site, norm, old[site], calibrate)
        except BaseException:
            _put(model, old)
            raise
    for vit in [module for module in model.modules() if isinstance(module, VisionTransformer)]:
        vit.placement = {**vit.placement, **{str(slot): kind for slot, kind in kinds.items()}}
    return model


def _put(model: nn.Module, norms: Mapping[Site, nn.Module]) -> None:
    for site, norm in norms.items():
        put_norm(model, site, norm)
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        block.attention = suited(block.attention)


def _is_already(old: nn.Module, new: nn.Module) -> bool:
    """Of the same kind with the same options. A library's own LayerNorm is a subclass that the table does not have."""
    if entry(old) is None or isinstance(old, nn.LayerNorm):
        return isinstance(old, type(new))
    options = [
        {name: v for name, v in vars(norm).items() if name[0] != "_" and name != "training"} for norm in (old, new)
    ]
    return type(old) is type(new) and options[0] == options[1]


def _with_weights_of(old: nn.Module, new: nn.Module) -> nn.Module:
    """Norms of one kind, or of torch's class beneath it, whose options differ."""
    if type(old) is type(new) or (entry(old) is None and isinstance(new, type(old))):
        new.load_state_dict(old.state_dict())
    return new


def _parameters_near(net: nn.Module, site: Site) -> Iterator[nn.Parameter]:
    for path in site.linears:
        yield from net.get_submodule(path).parameters(recurse=False)


def _has_statistics(norm: nn.Module) -> bool:
    counted = norm.bn if isinstance(norm, RepBatchNorm) else norm
    return getattr(counted, "running_mean", None) is not None and (known := entry(norm)) is not None and known.folds


class Recorder(nn.Module):
    """Stands in a norm's place, changes nothing, and adds up in float64 what it takes to replace `original` there.

    As every norm that the table does not have, it is handed all tokens.
    """

    def __init__(self, original: nn.Module, present: nn.Module) -> None:
        super().__init__()
        self.original = copy.deepcopy(original).double().eval()
        self.present = present
        self.count = 0
        # of the input x and of the original's output y: means, and sums of products of deviations
        self.mean_x = self.mean_y = self.xx = self.xy = torch.zeros((), dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        exact = x.detach().double()
        flat_x, flat_y = (rows.reshape(-1, rows.shape[-1]) for rows in (exact, self.original(exact)))
        if not len(flat_x):
            return self.present(x)
        mean_x, mean_y = flat_x.mean(0), flat_y.mean(0)
        dx, dy = flat_x - mean_x, flat_y - mean_y
        self._merge(len(flat_x), mean_x.cpu(), mean_y.cpu(), (dx * dx).sum(0).cpu(), (dx * dy).sum(0).cpu())
        return self.present(x)

    def _merge(self, count: int, mean_x: Tensor, mean_y: Tensor, xx: Tensor, xy: Tensor) -> None:
        """Chan, Golub and LeVeque's update (1979): no difference of large sums."""
        total = self.count + count
        step_x, step_y, share = mean_x - self.mean_x, mean_y - self.mean_y, self.count * count / total
        self.xx = self.xx + xx + step_x * step_x * share
        self.xy = self.xy + xy + step_x * step_y * share
        self.mean_x = self.mean_x + step_x * count / total
        self.mean_y = self.mean_y + step_y * count / total
        self.count = total

    @torch.no_grad()
    def fit(self, norm: Any) -> None:
        """Statistics of the input for `norm`, and as its affine map the straight line that best leads from one to the
        original's output, feature by feature (least squares)."""
        identity = 0.0
        affine_layer_norm = isinstance(self.original, nn.LayerNorm) and self.original.bias is not None
        if isinstance(norm, RepBatchNorm):
            if isinstance(norm, ProgressiveRepBatchNorm):
                if affine_layer_norm:
                    norm.ln.load_state_dict(self.original.state_dict())  # with which it begins
                else:
                    norm.progress.fill_(norm.over)  # its LayerNorm is not what stood there; a training begins anew
            identity, norm = float(norm.eta), norm.bn
        var, mean = self.xx / self.count, self.mean_x
        if norm.running_mean.numel() == 1:  # one mean and one variance for all features
            mean = self.mean_x.mean()
            var = (var + (self.mean_x - mean).square()).mean()
        mean, var = norm.statistics(mean, var)
        slope = torch.where(self.xx > 0, self.xy / self.xx, 0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        beside = slope - identity
        norm.weight.copy_(beside * (var + norm.eps).sqrt())
        norm.bias.copy_(self.mean_y - slope * self.mean_x + beside * mean)


@torch.no_grad()
def _fit(model: nn.Module, site: Site, norm: nn.Module, original: nn.Module, batches: Iterable[Any]) -> None:
    """Let the norm that stands there do in evaluation what the original did, as near as it can on these inputs."""
    recorder = Recorder(original, norm)
    put_norm(model, site, recorder)
    device = next(model.parameters()).device
    with _evaluating(model):
        for batch in batches:
            model((batch[0] if isinstance(batch, list | tuple) else batch).to(device))
    put_norm(model, site, norm)
    if not recorder.count:
        raise InputError("calibrate: no inputs; give a list or a loader, which can be gone through once per norm")
    if not recorder.xx.isfinite().all() or not recorder.xy.isfinite().all():
        raise InputError(f"calibrate: what comes to slot {site.slot} is not finite; look at the inputs and the weights")
    recorder.fit(norm)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the whole network is in evaluation mode; afterwards every module in its own again."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training
