"""Where weights are: a path here, or an ID of the Hugging Face hub. Imports no torch."""

import re
from pathlib import Path

from vitbn.errors import InputError

DESCRIPTIONS = ["config.json", "preprocessor_config.json"]
SAFETENSORS = ["model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"]
PICKLES = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"]
RULE = "neither a file or folder here nor a hub ID such as google/vit-base-patch16-224"


def is_place(text: str) -> bool:
    """Whether it is a path that exists or can be a hub ID."""
    return bool(text.strip()) and (Path(text).exists() or _is_id(text))


def locate(text: str | Path) -> Path:
    """The path itself, or the folder into which the hub's files have come; InputError with the remedy."""
    path = Path(text)
    if path.exists():
        return path
    if not _is_id(str(text)):
        raise InputError(f"{text}: does not exist, {RULE}")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError(f"{text}: no such path, and hub IDs need: pip install 'vitbn[hub]'") from None
    try:
        folder = Path(snapshot_download(str(text), allow_patterns=DESCRIPTIONS + SAFETENSORS))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(str(text), allow_patterns=DESCRIPTIONS + PICKLES))
        return folder
    except Exception as error:  # of the network, the hub's answers or its cache: the library has dozens
        reason = str(error).strip().splitlines()[0][:100] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{text}: no such path, and not to be had from the hub ({reason}); "
            f"put its {', '.join([*DESCRIPTIONS, SAFETENSORS[0]])} into a folder and give that folder"
        ) from None


def _is_id(text: str) -> bool:
    name = r"[A-Za-z0-9][\w.-]*"
    return bool(re.fullmatch(f"{name}/{name}", text)) and Path(text).suffix not in (".safetensors", ".pth", ".ckpt")
