"""`vitbn export`: a network as one file for use elsewhere, with its labels and its preprocessing recorded inside.

safetensors  the weights; vitbn.weights.network.load_network reads it back
onnx         for ONNX Runtime and others
torch        a torch.export program, which runs without this package

The graphs of onnx and torch take images (B, C, S, S) in [0, 1], subtract the mean and divide by the standard
deviation themselves, and return logits; B is dynamic.
"""

import copy
import importlib.util
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitbn.data.splits import Split
from vitbn.errors import InputError
from vitbn.inference.eval_data import Data, default_batch_size, inputs, load_eval_data
from vitbn.inference.fold import LIMIT, Folding, FoldStep, Predict, fold_proven, largest_difference
from vitbn.inference.metrics import score
from vitbn.inference.model_card import model_card
from vitbn.models.merged_attention import freeze_attention
from vitbn.models.sites import has_sites
from vitbn.models.vit import VisionTransformer
from vitbn.store import atomic
from vitbn.store.run import UNHASHED
from vitbn.weights.files import Weights, described_network, pack
from vitbn.weights.network import Network, load_network
from vitbn.weights.runs import run_folder


@dataclass(frozen=True)
class Format:
    """How a network becomes bytes, and how these are run again to check them."""

    suffix: str
    write: Callable[[Network], bytes]
    run: Callable[[Network, bytes], Predict]  # of images in [0, 1]
    needs: tuple[str, ...] = ()
    runtime: str = ""  # what else the card says it needs


OPSET = 20  # the first with GELU as one operator
OPSETS = {17: "1.12", 18: "1.14", 19: "1.15", OPSET: "1.17"}  # and the first ONNX Runtime that knows it


class Standardised(nn.Module):
    """The network behind (image - mean) / std."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.net = freeze_attention(network.net, _example(network))
        self.plain = set(network.mean) == {0.0} and set(network.std) == {1.0}
        self.register_buffer("mean", torch.tensor(network.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(network.std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images if self.plain else (images - self.mean) / self.std)


def shareable(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration without what says nothing about the network, such as the paths of this machine."""
    kept = {key: value for key, value in config.items() if key not in UNHASHED}
    if "data" in kept:
        kept["data"] = {key: value for key, value in config["data"].items() if key not in ("root", "cache")}
    return kept | {"model": {key: value for key, value in config["model"].items() if key != "pretrained"}}


def _weights(network: Network) -> Weights:
    architecture, options = described_network(network.config)
    return Weights(
        network.net.state_dict(), options, network.labels, network.mean, network.std, network.source, network.config,
        architecture,
    )  # fmt: skip


def facts(network: Network) -> dict[str, Any]:
    """What a user of a graph must know."""
    return {
        "labels": network.labels,
        "input": f"float32 (batch, {network.channels}, {network.image_size}, {network.image_size}), pixels in [0, 1]",
        "preprocessing": {"mean": network.mean, "std": network.std, "done": "inside"},
        "output": "logits (batch, labels)",
        "config": network.config,
    }


def _example(network: Network) -> Tensor:
    return torch.zeros(2, network.channels, network.image_size, network.image_size)  # 2: a size of 1 would be fixed


def _write_safetensors(network: Network) -> bytes:
    return pack(_weights(network))


def _write_halved(network: Network) -> bytes:
    weights = _weights(network)
    return pack(replace(weights, state={name: _halved(value) for name, value in weights.state.items()}))


def _halved(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


def rounded(network: Network) -> Network:
    """The network with every weight and statistic rounded to half precision, to be computed with as before."""
    net = copy.deepcopy(network.net)
    net.load_state_dict({name: _halved(value) for name, value in net.state_dict().items()})
    return replace(network, net=net)


def _run_safetensors(network: Network, content: bytes) -> Predict:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.safetensors"
        file.write_bytes(content)
        try:
            read = load_network(str(file))
        except InputError as error:
            reason = str(error).removeprefix(f"{file}: ")
            raise InputError(f"{network.source}: its file could not be read again ({reason}); use --no-fold") from None
    return lambda images: read.net(read.standardise(images))


def _program(network: Network) -> torch.export.ExportedProgram:
    batch = ({0: torch.export.Dim("batch")},)
    return torch.export.export(Standardised(network).eval(), (_example(network),), dynamic_shapes=batch)


def _write_torch(network: Network) -> bytes:
    content = io.BytesIO()
    torch.export.save(_program(network), content, extra_files={"vitbn.json": json.dumps(facts(network))})
    return content.getvalue()


def _run_torch(network: Network, content: bytes) -> Predict:
    return torch.export.load(io.BytesIO(content)).module()


def _write_onnx(network: Network, opset: int = OPSET) -> bytes:
    import onnx

    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            _program(network), dynamo=True, input_names=["images"], output_names=["logits"], verbose=False,
            opset_version=opset,
        )  # fmt: skip
    parts = {name: fact if isinstance(fact, str) else json.dumps(fact) for name, fact in facts(network).items()}
    program.model.metadata_props.update(parts)
    proto = program.model_proto
    if [entry.version for entry in proto.opset_import if not entry.domain] != [opset]:
        raise InputError(f"--opset {opset}: this network cannot be written so; leave it out")
    proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)  # older runtimes read no newer one
    # weights say their shapes twice; ONNX Runtime's quantizer replaces them and stumbles over the second
    weights = {weight.name for weight in proto.graph.initializer}
    others = [info for info in proto.graph.value_info if info.name not in weights]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(others)
    return proto.SerializeToString()


def _run_onnx(network: Network, content: bytes) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _runtime(opset: int) -> str:
    return f"opset {opset}, for ONNX Runtime {OPSETS[opset]} or newer"


FORMATS = {
    "safetensors": Format(".safetensors", _write_safetensors, _run_safetensors),
    "onnx": Format(".onnx", _write_onnx, _run_onnx, ("onnx", "onnxscript", "onnxruntime"), _runtime(OPSET)),
    "torch": Format(".pt2", _write_torch, _run_torch),
}


HALVED = Format(".safetensors", _write_halved, _run_safetensors)


def format_named(name: str, *, half: bool = False, opset: int | None = None) -> Format:
    """ValueError lists the formats; InputError names a package that is missing, or an option of another format."""
    if half and name != "safetensors":
        raise InputError(f"--half: only with --format safetensors, not {name}")
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; choose from {', '.join(FORMATS)}")
    if missing := [package for package in FORMATS[name].needs if importlib.util.find_spec(package) is None]:
        raise InputError(f"--format {name}: needs {', '.join(missing)}; pip install 'vitbn[export]'")
    if opset:
        if name != "onnx" or opset not in OPSETS:
            raise InputError(f"--opset {opset}: only with --format onnx, and one of {', '.join(map(str, OPSETS))}")
        return replace(FORMATS[name], write=partial(_write_onnx, opset=opset), runtime=_runtime(opset))
    return HALVED if half else FORMATS[name]


def written_difference(network: Network, content: bytes, form: Format, split: Split) -> float:
    """Largest logit difference between the file and the network over the images."""
    batches = inputs(network, split, default_batch_size(split), standardised=False)
    return largest_difference(form.run(network, content), lambda x: network.net(network.standardise(x)), batches)


def export(
    ckpt: str,
    *,
    form: str,
    data: Data = None,
    root: Path | None = None,
    out: Path | None = None,
    fold: bool = True,
    half: bool = False,
    opset: int | None = None,
) -> list[Path]:
    """Write the network as one file that has been run again and compared, and its card; their paths.

    `half`: its weights rounded to half precision, for half the size; what is measured is the rounded network. `opset`:
    ONNX's, where the runtime is older.
    """
    chosen = format_named(form, half=half, opset=opset)
    network = load_network(ckpt)
    folder = run_folder(network.source)
    out = out or folder / "export" / f"{folder.resolve().name}{chosen.suffix}"
    if out.suffix != chosen.suffix:
        raise InputError(f"--out {out}: a file of --format {form} ends in {chosen.suffix}")
    images = load_eval_data(network, data, root).labelled_for(network)
    batch_size = default_batch_size(images.test)
    network = replace(network, config=shareable(network.config))
    trained, plan, folding_difference = network, tuple[FoldStep, ...](), None
    if fold and has_sites(network.net):
        folding, folding_difference = fold_proven(network.net, inputs(network, images.test, batch_size))
        network, plan = _with_folding(network, folding), folding.plan
    rounding_difference = None
    if half:
        exact, network = network, rounded(network)
        batches = inputs(network, images.test, batch_size)
        rounding_difference = largest_difference(network.net, exact.net, batches)
    content = chosen.write(network)
    file_difference = written_difference(network, content, chosen, images.test)
    zero = torch.zeros(())
    scale = largest_difference(network.net, lambda images: zero, inputs(network, images.test, batch_size))
    if not file_difference <= LIMIT * max(1.0, scale):  # float32 rounds large logits more coarsely
        raise InputError(f"{out}: not written, its logits differ from the network's by {file_difference:.3g}")
    scores = score(network, images.test)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(out, lambda file: file.write(content))
    card = out.with_name(f"{out.name}.md")
    differences = (folding_difference, file_difference, rounding_difference)
    text = model_card(out, trained.config, network, images.name, scores, plan, *differences, runtime=chosen.runtime)
    atomic.write_text(card, text)
    return [out, card]


QKV_BIASES = ("qkv.bias", "q_proj.bias", "query.bias")  # of timm and Hugging Face


def _with_folding(network: Network, folding: Folding) -> Network:
    """The folded network, described so that it can be built again."""
    model = dict(network.config["model"])
    if isinstance(folding.net, VisionTransformer):
        model |= {"placement": dict(folding.placement), "qkv_bias": folding.qkv_bias}
    else:
        gone = {str(step.site.slot): "none" for step in folding.plan if step.into}
        model["placement"] = model["placement"] | gone
        made = folding.net.state_dict().keys() - network.net.state_dict().keys()
        if any(name.endswith(QKV_BIASES) for name in made):  # where there were none
            model["qkv_bias"] = True
    return replace(network, net=folding.net, config={**network.config, "model": model})
