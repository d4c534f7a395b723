"""Classification networks of timm, torchvision and Hugging Face by name, with norms of ours in their slots.

Images (B, C, S, S) -> logits (B, num_classes). A slot without a kind keeps what the network has there.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from vitbn.errors import InputError
from vitbn.models.surgery import replace_norms
from vitbn.norms.kinds import label

# what data and `model.pretrained` say, or what would fetch something
NOT_TYPED = ("num_classes", "in_chans", "num_labels", "num_channels", "device", "dtype", "features_only", "cache_dir",
             "checkpoint_path", "progress", "scriptable", "exportable", "no_jit")  # fmt: skip
FETCHING = ("pretrained", "weights")  # how such names begin
COUNTING = re.compile("depth|layers|blocks|stages|repeats")  # of modules, which take time and memory without weights
MAX_BLOCKS = 250
WITH_AUXILIARY_HEADS = {"aux_logits": False, "init_weights": True}  # which would make the output a tuple


class HuggingFace(nn.Module):
    """A classifier of Hugging Face, whose parameters keep their names below `model.`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


@dataclass(frozen=True)
class Library:
    """Where networks come from: its package, its names, how one is made, and what it calls its number of blocks."""

    package: str
    names: Callable[[ModuleType], list[str]]
    make: Callable[[ModuleType, str, int, int, int, dict[str, Any]], nn.Module]
    depth: str | None = None


def library_network(
    *,
    library: str,
    name: str,
    image_size: int,
    channels: int,
    num_classes: int,
    placement: Mapping[str, Any],
    depth: int | None = None,
    **options: Any,
) -> nn.Module:
    """The library's network of that name with the norms of `placement`; its weights are drawn as the library does.

    `options` are the library's own. ValueError for a name or an option that the library does not have, for norms in a
    network whose slots are not known, and for images that the network does not take.
    """
    source, package = library_named(library)
    require_name(library, name)
    if depth is not None:
        if source.depth is None:
            raise ValueError(f"depth={depth}: {library}'s networks have the depth of their name")
        options = {source.depth: depth, **options}
    for option, value in options.items():
        require_option(option, value)
    make = partial(source.make, package, name, image_size, channels, num_classes, options)
    try:
        try:
            net = make()
        except NotImplementedError:  # torchvision's RegNets compute with tensors, and those of shapes alone cannot
            device = torch.get_default_device()
            with torch.device("cpu"):
                net = make().to(device)
    except InputError:
        raise
    except Exception as error:  # whatever their constructors raise
        raise ValueError(_refusal(error, library, name, options)) from error
    _require_whole_patches(net, f"{library}'s {name}", image_size)
    if placement:
        _place(net, placement)
    _require_logits(net, f"{library}'s {name}", (1, channels, image_size, image_size), num_classes)
    return net


def library_named(library: str) -> tuple[Library, ModuleType]:
    """The library with its package; InputError if that is not installed."""
    if library not in LIBRARIES:
        raise ValueError(f"library={str(library)[:60]}: choose from {', '.join(LIBRARIES)}")
    source = LIBRARIES[library]
    try:
        return source, import_module(source.package)
    except ImportError:
        raise InputError(f"{source.package} is not installed; pip install 'vitbn[{library}]'") from None


def require_name(library: str, name: str) -> None:
    """ValueError with close matches for a name that is none of the library's networks."""
    source, package = library_named(library)
    known = source.names(package)
    if name in known or (name.partition(".")[0] in known and name in _tagged(library, package)):
        return
    close = difflib.get_close_matches(name, known, n=3)
    meant = f"did you mean {', '.join(close)}? " if close else ""
    raise ValueError(f"unknown network of {library}; {meant}`vitbn models {library}` lists all {len(known):,}")


def _tagged(library: str, package: ModuleType) -> list[str]:
    """timm's names with the tag of published weights, such as resnet18.a1_in1k."""
    return package.list_models(pretrained=True) if library == "timm" else []


def require_option(option: str, value: Any) -> None:
    """ValueError for what is no option of a network, or no plain value."""
    if option in NOT_TYPED or option.startswith(FETCHING):
        raise ValueError(f"{option}: cannot be typed here; weights are named by model.pretrained, classes by data")
    if not re.fullmatch(r"[a-z]\w{0,60}", option) or not is_plain(value):
        raise ValueError(f"{option}={str(value)[:60]}: must be a plain number, true, false, a word or a list of them")
    counts = value if isinstance(value, list) else [value]
    if COUNTING.search(option) and any(isinstance(count, int) and count > MAX_BLOCKS for count in counts):
        raise ValueError(f"{option}={str(value)[:60]}: at most {MAX_BLOCKS}")


def is_plain(value: Any) -> bool:
    """Whether it is a number, a word, or a short list of them."""
    if isinstance(value, list):
        return len(value) <= 256 and all(is_plain(item) and not isinstance(item, list) for item in value)
    if isinstance(value, str):
        return bool(re.fullmatch(r"[\w.+-]{0,60}", value))
    return isinstance(value, bool | int | float) and math.isfinite(value) and abs(value) <= 2**20


def _place(net: nn.Module, placement: Mapping[str, Any]) -> None:
    try:
        replace_norms(net, placement)
    except InputError as error:
        slot, kind = next(iter(placement.items()))
        raise ValueError(f"norm.{slot}={label(kind)}: {error}") from error


def _refusal(error: Exception, library: str, name: str, options: Mapping[str, Any]) -> str:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if named := re.search(r"unexpected keyword argument '(\w+)'", reason):
        return f"{named[1]}={options.get(named[1])}: {library}'s {name} has no such option"
    if named := re.search(r"multiple values for (?:keyword )?argument '(\w+)'", reason):
        return f"{named[1]}={options.get(named[1])}: {library}'s {name} sets it itself"
    return f"{library}'s {name} cannot be made so ({reason})"


def _require_whole_patches(net: nn.Module, title: str, side: int) -> None:
    """ValueError where the libraries would pass over what is left at the edges, of MNIST all but one patch."""
    first = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    patch = first.stride[0] if first is not None and first.stride == first.kernel_size else 1
    if side % patch:
        fitting = max(patch, round(side / patch) * patch)
        smaller = max(divisor for divisor in range(1, max(2, side // 4 + 1)) if side % divisor == 0)
        raise ValueError(
            f"{title} has patches of {patch} pixels, which do not divide images of {side}; "
            f"type +model.patch_size={smaller} or data.image_size={fitting}"
        )


def _require_logits(net: nn.Module, title: str, shape: tuple[int, ...], num_classes: int) -> None:
    """ValueError unless a black image gives the logits of one."""
    image = torch.zeros(shape, device=next(net.parameters()).device)
    net.eval()
    try:
        with torch.no_grad():
            logits = net(image)
    except Exception as error:
        reason = " ".join(str(error).split())[:150].rstrip(".") or type(error).__name__
        images = " x ".join(map(str, shape[1:]))
        raise ValueError(f"{title} does not take images of {images} ({reason})") from error
    if not isinstance(logits, Tensor) or logits.shape != (1, num_classes):
        raise ValueError(f"{title} does not give one logit for each class")
    net.train()


def _timm(timm: Any, name: str, image_size: int, channels: int, num_classes: int, options: dict[str, Any]) -> nn.Module:
    sized = {"img_size": image_size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    return timm.create_model(name, in_chans=channels, num_classes=num_classes, **sized | options)


def _torchvision(
    torchvision: Any, name: str, image_size: int, channels: int, num_classes: int, options: dict[str, Any]
) -> nn.Module:
    fixed: dict[str, Any] = {}
    if name.startswith("vit_"):
        fixed = {"image_size": image_size}
    elif name == "maxvit_t":
        fixed = {"input_size": (image_size, image_size)}
    elif name in ("googlenet", "inception_v3"):
        fixed = WITH_AUXILIARY_HEADS
    net = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **fixed | options)
    if channels != 3:
        sum_colours(net, channels)
    return net


def sum_colours(net: nn.Module, channels: int) -> None:
    """Let the first convolution see grey images as the same grey in every colour."""
    path, conv = next((path, module) for path, module in net.named_modules() if isinstance(module, nn.Conv2d))
    grey = nn.Conv2d(
        channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=conv.bias is not None  # type: ignore[arg-type]
    )  # fmt: skip
    with torch.no_grad():
        grey.weight.copy_(conv.weight.sum(1, keepdim=True).expand_as(grey.weight))
        if grey.bias is not None and conv.bias is not None:
            grey.bias.copy_(conv.bias)
    net.set_submodule(path, grey)


def _hf(
    transformers: Any, name: str, image_size: int, channels: int, num_classes: int, options: dict[str, Any]
) -> nn.Module:
    config = hf_config(name, {"image_size": image_size, "num_channels": channels}, options, num_classes)
    return HuggingFace(transformers.AutoModelForImageClassification.from_config(config))


def hf_config(name: str, sized: Mapping[str, Any], options: Mapping[str, Any], num_classes: int) -> Any:
    """Hugging Face's configuration of a network, of those options alone that are the network's own."""
    transformers: Any = import_module("transformers")
    own = [field for field in transformers.CONFIG_MAPPING[name].__annotations__ if not field.startswith("_")]
    if unknown := [option for option in options if option not in own]:
        raise TypeError(f"unexpected keyword argument '{unknown[0]}'")
    given = {field: value for field, value in sized.items() if field in own} | dict(options)
    return transformers.AutoConfig.for_model(name, **given, num_labels=num_classes, architectures=[_hf_classes()[name]])


def _hf_names(transformers: Any) -> list[str]:
    return sorted({*_hf_classes()} - {"timm_wrapper"})  # which would fetch another


def _hf_classes() -> dict[str, str]:
    """A classifier's class by its type; the first where there is one with a teacher beside it."""
    auto = import_module("transformers.models.auto.modeling_auto")
    classes = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    return {name: cls if isinstance(cls, str) else cls[0] for name, cls in classes.items()}


LIBRARIES = {
    "timm": Library("timm", lambda timm: timm.list_models(), _timm, depth="depth"),
    "hf": Library("transformers", _hf_names, _hf, depth="num_hidden_layers"),
    "torchvision": Library("torchvision", lambda tv: tv.models.list_models(module=tv.models), _torchvision),
}
