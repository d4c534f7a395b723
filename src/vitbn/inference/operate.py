"""`vitbn transplant`: from a network with LayerNorms to pictures of the damage and weights to fine-tune from."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from vitbn.errors import InputError
from vitbn.inference import transplant_report as damage
from vitbn.inference.eval_data import Data, arriving
from vitbn.inference.transplant import Site, Transplant, sites
from vitbn.models.placements import Slot
from vitbn.models.vit import VisionTransformer
from vitbn.weights.files import Weights, write
from vitbn.weights.network import Network, load_network
from vitbn.weights.pretrained import ADAPTED, to_type

FILE = "transplanted.safetensors"


def command(place: str, *, data: Data, root: Path | None, count: int, slots: Sequence[str], out: Path) -> int:
    """Transplant, write everything into `out`, and say what fine-tunes from it."""
    if count < 2:
        raise InputError(f"--images {count}: must be at least 2")
    network = load_network(place)
    if not isinstance(network.net, VisionTransformer):
        raise InputError(f"{network.source}: {network.config['model']['name']} is no Vision Transformer")
    options = {**network.options, "placement": network.net.placement}
    chosen = _chosen(network, slots)
    images = arriving(network, data, root, count=count)
    network.net.to("cuda" if torch.cuda.is_available() else "cpu")
    truth = images.test.labels if images.classes == network.labels else None
    work = Transplant(network, chosen, images.train.images, images.test.images, truth)
    seen = f"{len(images.train)} images calibrate, {len(images.test)} measure"
    print(f"{network.source}: {len(chosen)} norms; {seen}")
    alone = work.alone()
    order = work.in_greedy_order(lambda step: print(f"  {step.site}: {step.damage.kl:.4f} nats", flush=True))
    damage.write(out, work.original, alone, order)
    damage.print_tables(work.original, alone, order)
    replaced = {str(site.slot): "batch" for site in chosen}
    options["placement"] = {**options["placement"], **replaced}
    state = {name: tensor.cpu() for name, tensor in network.net.state_dict().items()}
    write(Weights(state, options, network.labels, network.mean, network.std, out / FILE))
    typed = [words for key, words in to_type(options).items() if key not in ADAPTED]
    typed += map(shlex.quote, _to_type_for_data(network, data))
    print(f"{out}: {FILE}, damage.csv, order.csv, transplant-damage and transplant-order as PNG and SVG")
    print(f"fine-tune: python train.py {' '.join(typed)} model.pretrained={shlex.quote(str(out / FILE))}")
    return 0


def _to_type_for_data(network: Network, data: Data) -> list[str]:
    """What asks train.py for these images as the network has seen them."""
    said = {"source": "folder", "root": data} if isinstance(data, Path) else (data or network.config)["data"]
    source = said.get("source")
    typed = [f"data={source or said['name']}"]
    typed += [f"data.root={said.get('root', 'DIR')}"] if source == "folder" else []
    typed += [f"data.image_size={network.image_size}", f"data.channels={network.channels}"] if source else []
    for key, values in (("mean", network.mean), ("std", network.std)):
        typed.append(f"data.{key}={list(values) if len(values) > 1 else values[0]}".replace(" ", ""))
    return typed


def _chosen(network: Network, slots: Sequence[str]) -> list[Site]:
    """The places of the LayerNorms, in some slots or in all."""
    assert isinstance(network.net, VisionTransformer)
    if unknown := [slot for slot in slots if slot not in set(Slot)]:
        raise InputError(f"--slots {unknown[0]}: unknown; choose from {', '.join(Slot)}")
    found = sites(network.net)
    there = [str(slot) for slot in Slot if any(site.slot == slot for site in found)]
    if not found:
        raise InputError(f"{network.source}: has no LayerNorm to replace")
    if empty := [slot for slot in slots if slot not in there]:
        raise InputError(f"--slots {empty[0]}: no LayerNorm there; choose from {', '.join(there)}")
    return [site for site in found if not slots or site.slot in slots]
