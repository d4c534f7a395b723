"""`trainer`: every flag of Lightning's Trainer. Imports no torch."""

from dataclasses import make_dataclass
from typing import Any

from vitbn.resources import resource_folder
from vitbn.store.yaml_file import read_yaml

FLAGS = tuple(read_yaml(resource_folder("conf") / "trainer" / "default.yaml"))
DEFAULTS = {"accelerator": "auto", "devices": 1, "precision": "32-true", "strategy": "auto", "sync_batchnorm": "auto"}
PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}  # Lightning's shorter names
DEBUG_STUDY = "debug"

# Flags of any value: what fits them is said by the checks, and by Lightning
TYPES = {"gradient_clip_val": float | None}  # where 1 and 1.0 are one value
TrainerConfig = make_dataclass("TrainerConfig", [(flag, TYPES.get(flag, Any), None) for flag in FLAGS])
TrainerConfig.__module__ = __name__  # so that a launcher can send a configuration to its workers


def with_flags_understood(config: dict[str, Any]) -> dict[str, Any]:
    """The plain configuration with one spelling of everything, so that a run has one name.

    Flags that are null are left out, and a run that only tries whether everything runs
    (`fast_dev_run`) keeps away from the study and is never done.
    """
    trainer = DEFAULTS | {flag: value for flag, value in config["trainer"].items() if value is not None}
    trainer["precision"] = PRECISIONS.get(str(trainer["precision"]), trainer["precision"])
    trainer.pop("max_epochs", None)  # it is `epochs` before anything refers to that (`to_plain_dict`)
    debugging = {"study": DEBUG_STUDY, "rerun": True} if trainer.get("fast_dev_run") else {}
    return config | {"trainer": trainer} | debugging
