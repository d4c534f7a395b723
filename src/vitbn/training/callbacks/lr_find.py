"""`callbacks=lr_find`: Lightning's LearningRateFinder, once per run."""

import logging
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateFinder

from vitbn.errors import InputError

log = logging.getLogger("vitbn")


class FindLearningRate(LearningRateFinder):
    """The range test before the first step; the run is then the one that `lr` of the found rate would be.

    The options are Lightning's. Its own search would begin again where a run is resumed, and forget the optimizer's
    state there; and it would leave schedulers with the rate they were made for.
    """

    state_key = "lr_find"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.found: float | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.found is None:
            epochs, trainer.fit_loop.max_epochs = trainer.fit_loop.max_epochs, -1  # a short run would cut the search
            self.lr_find(trainer, pl_module)
            pl_module.to(pl_module.device)  # it has read back the metrics of before, and they lie on the CPU then
            trainer.fit_loop.max_epochs = epochs
            self.found = self.optimal_lr.suggestion() if self.optimal_lr else None
            if self.found is None:
                if not getattr(trainer, "fast_dev_run", False):
                    raise InputError("callbacks.lr_find: no learning rate found, the losses were not finite or too few")
                return
            if trainer.is_global_zero:
                log.info(f"{trainer.default_root_dir}: learning rate {self.found:.3g} found")
        pl_module.lr = self.found  # type: ignore[assignment]
        trainer.strategy.setup_optimizers(trainer)  # anew, and with them the schedulers

    def state_dict(self) -> dict[str, Any]:
        return {"found": self.found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.found = state_dict["found"]
