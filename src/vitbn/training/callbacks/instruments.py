"""`callbacks=instruments`: what goes on inside a network while it trains, in the loggers and instruments.csv."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from vitbn.models.attach import PART, VIEWS
from vitbn.models.bn_statistics import batch_norms, samples
from vitbn.models.merged_attention import MergedAttention
from vitbn.models.placements import Slot
from vitbn.models.sites import Site, has_sites, sites
from vitbn.store import atomic
from vitbn.training import measurements
from vitbn.training.measurements import SHARPNESS_STEP, FeatureMoments, layer_of
from vitbn.training.module import Classifier, at_least_float32, gradient_scale

COLUMNS = "step,epoch,layer,slot,name,value\n"
ENTROPY_IMAGES = 16  # of a batch: their attention is computed again, its weights are not kept
Key = tuple[str, str, str]  # layer, slot or group of parameters, name
SHARPNESS = ("", "", "sharpness")


class Instruments(Callback):
    """Measures the first optimizer step, every `every_n_steps`-th and the last but one of every epoch.

    (The last one's batch may be smaller.) Sharpness, which takes forward passes of its own, is measured at the end of
    an epoch, once in `sharpness_every_n_steps` at most; never for 0. The training does not notice: hooks read what
    passes, and the passes use copies. docs/instruments.md has the formulas.
    """

    state_key = "instruments"

    def __init__(self, every_n_steps: int = 100, sharpness_every_n_steps: int = 200) -> None:
        if every_n_steps < 1 or sharpness_every_n_steps < 0:
            raise ValueError("every_n_steps must be at least 1 and sharpness_every_n_steps at least 0")
        self.every_n_steps = every_n_steps
        self.sharpness_every_n_steps = sharpness_every_n_steps
        self.keys: dict[Key, int] = {}  # what was measured so far -> its column
        self.rows: list[tuple[int, int, Tensor]] = []  # step, epoch, values by column; NaN: not measured
        self._written = -1  # rows that are in the file; -1: the file is of an earlier process
        self._step: MeasuredStep | None = None  # now under way

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        every, batches = trainer.accumulate_grad_batches, int(trainer.num_training_batches)
        if not trainer.is_last_batch and (batch_idx + 1) % every:
            return  # gradients wait for further batches
        closes = batch_idx == max((batches - 1) // every * every, min(batches, every)) - 1
        step = trainer.global_step + 1
        if step == 1 or step % self.every_n_steps == 0 or closes:
            sharply = closes and self._sharpness_is_due(step)
            self._step = MeasuredStep(cast(Classifier, pl_module), batch, batch_idx, sharply)

    def _sharpness_is_due(self, step: int) -> bool:
        column, every = self.keys.get(SHARPNESS), self.sharpness_every_n_steps
        if column is None:
            return every > 0
        measured = (at for at, _, row in reversed(self.rows) if column < len(row) and not row[column].isnan())
        latest = next(measured, -every)  # so far it may have been NaN only
        return 0 < every <= step - latest

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self._step:
            self._step.before_update(trainer, optimizer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._step is None:
            return
        values = self._step.finish(trainer)
        self._step = None
        for key in values:
            self.keys.setdefault(key, len(self.keys))
        row = torch.full((len(self.keys),), torch.nan)
        row[[self.keys[key] for key in values]] = torch.tensor(list(values.values()), dtype=torch.float32)
        self.rows.append((trainer.global_step, trainer.current_epoch + 1, row))
        for logger in trainer.loggers:
            logger.log_metrics(summary(values), step=trainer.global_step)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.write(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.write(trainer)  # where a run has diverged or was interrupted

    def write(self, trainer: pl.Trainer) -> None:
        """Bring instruments.csv up to date: the new rows are appended, after an interruption all are written anew."""
        if not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / "instruments.csv"
        if self._written < 0:
            atomic.write_text(path, COLUMNS + "".join(self._lines(0)))
        else:
            with path.open("a") as file:
                file.writelines(self._lines(self._written))
        self._written = len(self.rows)

    def _lines(self, first: int) -> Iterator[str]:
        names = [",".join(key) for key in self.keys]
        for step, epoch, row in self.rows[first:]:
            for name, value in zip(names, row.tolist(), strict=False):  # an early row may be shorter
                if not math.isnan(value):
                    yield f"{step},{epoch},{name},{value:.6g}\n"

    def state_dict(self) -> dict[str, Any]:
        width = len(self.keys)
        padded = [nn.functional.pad(row, (0, width - len(row)), value=torch.nan) for *_, row in self.rows]
        return {
            "keys": [list(key) for key in self.keys],
            "steps": [[step, epoch] for step, epoch, _ in self.rows],
            "values": torch.stack(padded) if padded else torch.empty(0, width),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.keys = {tuple(key): column for column, key in enumerate(state_dict["keys"])}
        rows = zip(state_dict["steps"], state_dict["values"], strict=True)
        self.rows = [(step, epoch, row.clone()) for (step, epoch), row in rows]
        self._written = -1


class MeasuredStep:
    """One optimizer step under observation; its hooks are removed before the update."""

    def __init__(self, module: Classifier, batch: Any, batch_idx: int, sharply: bool) -> None:
        self.module, self.net = module, module.net
        self.batch, self.batch_idx, self.sharply = batch, batch_idx, sharply
        self.values: dict[Key, float] = {}
        self.moments: dict[str, FeatureMoments] = {}  # by the norm's name
        self.running: dict[str, tuple[Tensor, Tensor]] = {}  # before this batch changes them
        self.queries_keys: dict[str, list[Tensor]] = {}  # by layer, as attention multiplies them
        self.before: list[Tensor] = []  # weights before the update
        self.gradient_norms = torch.empty(0)
        self.slots: dict[str, tuple[str, str]] = {}  # path -> layer and slot
        self.handles: list[Any] = []
        for site in sites(self.net) if has_sites(self.net) else ():
            self._watch(site)
        for name, norm in batch_norms(self.net).items():
            if name not in self.slots:
                self._passing(name, layer_of(name), name.removeprefix(layer_of(name)).lstrip("."), norm)
        for name, attention in self.net.named_modules():
            if isinstance(attention, MergedAttention):
                self.handles.append(attention.register_forward_hook(self._as_if_not_merged(layer_of(name))))

    def _passing(self, path: str, layer: str, slot: str, norm: nn.Module) -> None:
        self.slots[path] = layer, slot
        self.handles.append(norm.register_forward_pre_hook(lambda norm, args: self._record(path, norm, args[0])))

    def _watch(self, site: Site) -> None:
        """Hooks where the tensor passes: at the norm itself, or at the module that stands beside an empty slot."""
        place, _, name = site.path.rpartition(".")
        beside, layer = self.net.get_submodule(place), layer_of(site.path)
        norm = getattr(beside, name, None)
        if norm is not None:
            self._passing(site.path, layer, site.slot.value, norm)
            if site.slot == Slot.qk:
                self.handles.append(norm.register_forward_hook(lambda norm, args, out: self._keep(layer, out)))
            return
        self.slots[site.path] = layer, site.slot.value

        def record(x: Tensor) -> Tensor:
            self._record(site.path, None, x)
            if site.slot == Slot.qk:
                self._keep(layer, x)
            return x

        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor | None = None) -> None:
            x = (args[0] if out is None else out).detach()
            VIEWS[site.view](
                cast(nn.Module, record), x.chunk(3, dim=-1)[PART[name]] if name in PART else x, site.features
            )

        register = beside.register_forward_pre_hook if name == "norm_before" else beside.register_forward_hook
        self.handles.append(register(hook))

    @torch.no_grad()
    def _record(self, path: str, norm: Any, x: Tensor) -> None:
        x = at_least_float32(x.detach())
        if getattr(norm, "running_mean", None) is None:
            self.moments[path] = FeatureMoments.of(x.flatten(0, -2))
            return
        self.moments[path] = FeatureMoments.of(samples(norm, x))
        self.running[path] = norm.running_mean.clone(), norm.running_var.clone()

    def _keep(self, layer: str, x: Tensor) -> None:
        self.queries_keys.setdefault(layer, []).append(at_least_float32(x[:ENTROPY_IMAGES].detach()))

    def _as_if_not_merged(self, layer: str) -> Any:
        @torch.no_grad()
        def hook(attention: MergedAttention, args: tuple[Tensor, ...], out: Tensor) -> None:
            if layer not in self.queries_keys:  # the slots are empty: nothing notices that they are passed
                attention.qkv(*(arg[:ENTROPY_IMAGES].detach() for arg in args))

        return hook

    def before_update(self, trainer: pl.Trainer, optimizer: torch.optim.Optimizer) -> None:
        """With the step's gradients in place: their norms, the weights as they are, sharpness."""
        for handle in self.handles:
            handle.remove()  # before further passes
        gradients = {name: p.grad for name, p in self.net.named_parameters()}
        self.gradient_norms = measurements.norms(gradients.values()) / gradient_scale(trainer, optimizer)
        self.before = [parameter.detach().clone() for parameter in self.net.parameters()]
        if self.sharply:
            total = measurements.norms(gradients.values()).norm()
            direction = {name: at_least_float32(g) / total for name, g in gradients.items() if g is not None}
            self.values[SHARPNESS] = self._sharpness(trainer, direction)

    def _sharpness(self, trainer: pl.Trainer, direction: dict[str, Tensor]) -> float:
        self.module.seed_generators(self.batch_idx)  # as the step was; the next batch seeds them anew
        images, labels = self.module.mixed(self.batch)
        lengths, count = (-SHARPNESS_STEP, 0.0, SHARPNESS_STEP), torch.tensor(float(len(labels)), device=images.device)
        if len(labels):
            losses = torch.stack(measurements.losses_along(
                self.net, direction, lengths, images, labels,
                label_smoothing=self.module.label_smoothing, seed=self.module.seed,
            ))  # fmt: skip
        else:  # this process has no share of a last, small batch
            losses = torch.zeros(3, dtype=torch.float64, device=images.device)
        share = count / cast(Tensor, trainer.strategy.reduce(count.clone(), reduce_op="mean"))
        losses = cast(Tensor, trainer.strategy.reduce(losses * share, reduce_op="mean"))
        return measurements.curvature(*losses.tolist())

    def finish(self, trainer: pl.Trainer) -> dict[Key, float]:
        """After the update: everything that was measured."""
        parts = measurements.parts_of(self.net)
        weights = measurements.norms(self.before)
        updates = measurements.norms(
            [parameter.detach() - before for parameter, before in zip(self.net.parameters(), self.before, strict=True)]
        )
        of_gradients, of_weights, of_updates = (
            measurements.of_parts(norms.cpu(), parts) for norms in (self.gradient_norms, weights, updates)
        )
        for layer, group in parts:
            self.values[layer, group, "gradient norm"] = of_gradients[layer, group]
            if of_weights[layer, group]:
                self.values[layer, group, "update ratio"] = of_updates[layer, group] / of_weights[layer, group]
        self.values |= self.of_slots(trainer)
        for layer, (q, k) in self.queries_keys.items():
            weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
            self.values[layer, "", "attention entropy"] = measurements.attention_entropy(weights).item()
        return self.values

    def of_slots(self, trainer: pl.Trainer) -> dict[Key, float]:
        """Mean, variance and statistics gap at every slot; where it has two norms (qk), their mean."""
        found: dict[Key, list[Tensor]] = {}
        for name, moments in self._pooled(trainer).items():
            layer, slot = self.slots[name]
            measured = dict(zip(("mean", "variance"), moments.overall(), strict=True))
            if name in self.running and moments.count > 1:
                gaps = moments.gap(*(buffer.cpu().double() for buffer in self.running[name]))
                measured |= zip(("mean gap", "deviation gap"), gaps, strict=True)
            for what, value in measured.items():
                found.setdefault((layer, slot, what), []).append(value)
        return {key: torch.stack(values).mean().item() for key, values in found.items()}

    def _pooled(self, trainer: pl.Trainer) -> dict[str, FeatureMoments]:
        """The moments of the whole batch, over all processes, in float64 on the CPU."""
        if not self.moments:
            return {}
        flat = [
            torch.cat([moments.mean.new_tensor([moments.count]), moments.mean, moments.var]).float()
            for moments in self.moments.values()
        ]
        table = flat[0].new_zeros(trainer.world_size, sum(map(len, flat)))  # a row per process
        table[trainer.global_rank] = torch.cat(flat)
        shares = cast(Tensor, trainer.strategy.reduce(table, reduce_op="sum")).cpu().double()
        split = [share.split([len(part) for part in flat]) for share in shares]
        pooled = {}
        for index, name in enumerate(self.moments):
            parts = [(part[0].item(), *part[1:].chunk(2)) for part in (share[index] for share in split)]
            pooled[name] = FeatureMoments.pooled([FeatureMoments(*part) for part in parts])
        return pooled


def summary(values: dict[Key, float]) -> dict[str, float]:
    """What the loggers get: a value per layer, of the slots the mean over all layers, and sharpness."""
    found: dict[str, list[float]] = {}
    for (layer, slot, name), value in values.items():
        if name == "mean" or (name in ("gradient norm", "update ratio") and slot):
            continue  # in the file only
        of_slot = name in ("variance", "mean gap", "deviation gap")
        group = "activation variance" if name == "variance" else name
        found.setdefault("/".join(part for part in (group, slot if of_slot else layer) if part), []).append(value)
    return {name: sum(of) / len(of) for name, of in found.items()}
