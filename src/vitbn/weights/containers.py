"""Files of tensors, whoever wrote them: safetensors or PyTorch's own, in one piece or in shards.

Nothing in them is executed. Tensors are at least in float32, whatever they were kept in.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitbn.errors import InputError
from vitbn.store import checkpoint_file, text_file
from vitbn.weights.layouts import State

log = logging.getLogger("vitbn")
INDEX = ".index.json"
FILES = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema")  # timm's, DeiT's, others'
WRAPPINGS = (*AVERAGED, "state_dict", "model", "model_state_dict", "module", "net")


@dataclass(frozen=True)
class Content:
    """What a file holds: weights, safetensors' metadata, and what a training checkpoint says of its network."""

    tensors: State
    metadata: dict[str, str] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)


def weights_file(path: Path) -> Path:
    """The file itself, or a folder's file of weights; InputError if there is none."""
    file = next((path / name for name in FILES if (path / name).is_file()), path) if path.is_dir() else path
    if not file.is_file():
        expected = f"({FILES[0]}) nor {FILES[2]} nor an index of either's parts"
        raise InputError(
            f"{path}: neither a run (config.yaml) nor weights {expected if path.is_dir() else ''}".rstrip()
        )
    return file


def read(file: Path) -> Content:
    """InputError names a file that holds code or no weights."""
    content = _read_parts(file) if file.name.endswith(INDEX) else _read_one(file)
    return Content(at_least_float32(content.tensors), content.metadata, content.said)


def read_json(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file, empty if there is no such file."""
    try:
        return text_file.read_json(file)
    except FileNotFoundError:
        return {}


def is_state(content: Any) -> bool:
    """Whether it is a dictionary of weights: names to tensors that are no larger than the memory they have."""
    return isinstance(content, dict) and all(
        isinstance(name, str) and name.isprintable() and isinstance(value, Tensor) and _is_dense(value)
        for name, value in content.items()
    )


def at_least_float32(state: Mapping[str, Tensor]) -> State:
    """Half precision is for keeping weights, not for computing with them."""
    return {name: value.float() if value.dtype.is_floating_point and value.dtype.itemsize < 4 else value
            for name, value in state.items()}  # fmt: skip


def _is_dense(value: Tensor) -> bool:
    return (
        value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _read_one(file: Path) -> Content:
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt") as opened:
                content = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                metadata = opened.metadata() or {}
        except SafetensorError as error:
            reason = " ".join(str(error).split())[:100]
            raise InputError(f"{file}: damaged, or no safetensors file ({reason})") from None
        said = {}
    else:
        content, metadata = checkpoint_file.load(file, stand_ins=True), {}
        said = _said(content, file)
    content = _unwrapped(content, file)
    if not is_state(content):
        holds_code = isinstance(content, dict) and any(isinstance(v, checkpoint_file.StandIn) for v in content.values())
        what = "refused, not a checkpoint of weights and plain data" if holds_code else "not a dictionary of weights"
        raise InputError(f"{file}: {what}")
    return Content(content, metadata, said)


def _read_parts(index: Path) -> Content:
    """The weights of all files that an index names, which lie beside it."""
    parts = read_json(index).get("weight_map")
    if not isinstance(parts, dict) or not all(
        isinstance(part, str) and part == Path(part).name for part in parts.values()
    ):
        raise InputError(f"{index}: no index of the files that weights are in")
    tensors: State = {}
    for name in sorted(set(parts.values())):
        if not (part := index.with_name(name)).is_file():
            raise InputError(f"{index}: its part {name[:60]} is not here")
        tensors |= _read_one(part).tensors
    return Content(tensors)


def _unwrapped(content: Any, file: Path) -> Any:
    """The weights inside what training scripts save around them; averaged ones first, as timm loads them."""
    if not isinstance(content, dict) or (content and is_state(content)):
        return content
    inside = {key: _unwrapped(content[key], file) for key in WRAPPINGS if isinstance(content.get(key), dict)}
    states = {key: state for key, state in inside.items() if state and is_state(state)}
    if not states:
        return next(iter(inside.values()), content)
    taken = next(iter(states))
    if len(states) > 1 and taken in AVERAGED:
        log.warning(f"{file}: holds {' and '.join(states)}; the averaged weights {taken} are taken")
    return states[taken]


def _said(content: Any, file: Path) -> dict[str, Any]:
    """What timm's training script notes of the network, in the words of timm's config.json."""
    if not isinstance(content, dict):
        return {}
    args = content.get("args")
    args = args if isinstance(args, dict) else getattr(args, "attributes", {})
    said = {
        "architecture": content.get("arch") or args.get("model"),
        "model_args": args.get("model_kwargs"),
        "global_pool": args.get("gp"),
        "pretrained_cfg": {key: args[key] for key in ("mean", "std") if args.get(key) is not None},
    }
    for key, value in said.items():
        _require_flat(key, value, file)
    return {key: value for key, value in said.items() if value}


def _require_flat(key: str, value: Any, file: Path) -> None:
    """A list of references to lists of references … is short in a pickle and without end when it is printed."""
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
    for entry in entries:
        parts = entry if isinstance(entry, (list, tuple)) else [entry]
        if len(parts) > 16 or any(isinstance(part, (list, tuple, dict)) for part in parts):
            raise InputError(f"{file}: refused, what it says of {key} is nested")
