"""metrics.csv and steps.csv: the curves of a run as plain tables, whatever else logs them."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from vitbn.store import atomic

EPOCH_METRICS = ("train/loss", "train/acc", "val/loss", "val/acc")
COLUMNS = ("epoch", *EPOCH_METRICS, "lr", "seconds")


def mean_loss(trainer: pl.Trainer, outputs: Any) -> torch.Tensor:
    """The loss of a training step over the whole batch, on the device."""
    loss = outputs["loss"] * trainer.accumulate_grad_batches  # by which Lightning has divided it
    return trainer.strategy.reduce(loss, reduce_op="mean")  # type: ignore[return-value]


class MetricsFile(Callback):
    """metrics.csv: one row per finished epoch, with what callbacks before this one and the module have logged in it.

    Nothing stands in a cell that the epoch did not measure. Checkpoints hold the rows, so that a resumed run repeats
    none.
    """

    state_key = "metrics"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._lr = 0.0  # of the latest step
        self._seconds_before = 0.0  # seconds of this epoch before the run was interrupted
        self._started = time.perf_counter()
        self._validated: dict[str, float] = {}  # what was logged in this epoch until its latest validation
        self._earlier: dict[str, torch.Tensor] = {}  # what Lightning still shows of earlier epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()
        # where the run goes on in mid-epoch: schedules and checkpoints ask Lightning for this epoch's validation
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._validated.items()})

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._earlier, self._validated = dict(trainer.callback_metrics), {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validated = self._logged(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        logged = self._validated | self._logged(trainer)
        pl_module.log("lr", self._lr)
        row = {"epoch": trainer.current_epoch + 1, **{name: logged.get(name) for name in EPOCH_METRICS}}
        row |= {"lr": self._lr, "seconds": round(self._seconds(), 3)}
        self.rows.append(row | {name: value for name, value in sorted(logged.items()) if name not in row})
        self._seconds_before, self._validated = 0.0, {}
        self._started = time.perf_counter()
        if trainer.is_global_zero:
            self.write()

    def _logged(self, trainer: pl.Trainer) -> dict[str, float]:
        """The epoch's metrics so far, under the names that were logged, not Lightning's further ones for steps."""
        names = [name for name, value in trainer.callback_metrics.items() if value is not self._earlier.get(name)]
        twins = {f"{name}{kind}" for name in names for kind in ("_step", "_epoch")}
        return {name: trainer.callback_metrics[name].item() for name in names if name not in twins}

    def write(self) -> None:
        """Replace the file, whatever a killed run left there."""
        further = sorted({name for row in self.rows for name in row} - set(COLUMNS))
        atomic.write_csv(self.path, (*COLUMNS, *further), self.rows)

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self._seconds(), "validated": self._validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        self._seconds_before = state_dict["seconds"]
        self._validated = state_dict.get("validated", {})  # not in older checkpoints


class StepsFile(Callback):
    """steps.csv: the mean training loss of every `every` steps, by the last of them; rewritten at the end of an epoch.

    `every` may be another after an interruption: the steps of a window that was not full then stand in no row.
    """

    state_key = "steps"

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self.rows: list[tuple[int, float]] = []
        self._losses: list[torch.Tensor] = []  # stay on the device until they are needed
        self._last = 0  # the step of the latest of them

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(mean_loss(trainer, outputs))
        self._last = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx + 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._collect()
        if trainer.is_global_zero:
            lines = "".join(f"{step},{loss}\n" for step, loss in self.rows)
            atomic.write_text(self.path, "step,train/loss\n" + lines)

    def _collect(self) -> None:
        while len(self._losses) >= self.every:
            window, self._losses = self._losses[: self.every], self._losses[self.every :]
            mean = torch.stack([loss.to(window[-1]) for loss in window]).mean()  # those of a checkpoint are on the CPU
            self.rows.append((self._last - len(self._losses), mean.item()))

    def state_dict(self) -> dict[str, Any]:
        self._collect()
        losses = [loss.item() for loss in self._losses]
        return {"every": self.every, "rows": self.rows, "losses": losses, "last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [tuple(row) for row in state_dict["rows"]]
        if state_dict.get("every", self.every) == self.every:  # not in older checkpoints
            self._losses = [torch.tensor(loss, dtype=torch.float64) for loss in state_dict["losses"]]
            self._last = state_dict.get("last", 0)
