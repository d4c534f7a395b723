"""`vitbn recalibrate`: a checkpoint whose BatchNorm statistics are measured anew."""

from pathlib import Path

from vitbn.errors import InputError
from vitbn.inference.eval_data import Data, fresh_statistics, load_eval_data
from vitbn.models.bn_statistics import batch_norms
from vitbn.store import checkpoint_file
from vitbn.weights.network import load_network
from vitbn.weights.runs import RECALIBRATED, described_by


def recalibrate(ckpt: str, *, data: Data = None, root: Path | None = None, out: Path | None = None) -> Path:
    """Write a copy of the checkpoint with fresh BatchNorm statistics; its path."""
    network = load_network(ckpt)
    if not batch_norms(network.net):
        raise InputError(f"{network.source}: has no BatchNorm, there is nothing to recalibrate")
    out = out or network.source.with_name("recalibrated.ckpt")
    if out.parent.resolve() == network.source.parent.resolve() and out.name in checkpoint_file.OF_TRAINING:
        raise InputError(f"--out {out}: training goes on from this file; choose another name")
    if described_by(out) is None:
        remedy = f"choose a place in {network.source.parent}, or one beside a copy of the run's config.yaml"
        raise InputError(f"--out {out}: nothing there would say what network it is; {remedy}")
    images = load_eval_data(network, data, root)
    statistics, count = fresh_statistics(network, images.train)
    checkpoint = checkpoint_file.load(network.source)
    if "state_dict" not in checkpoint:
        raise InputError(f"{network.source}: not a checkpoint of a run; only those are recalibrated")
    for norm, (mean, var) in statistics.items():
        for buffer, value in (("running_mean", mean), ("running_var", var)):
            saved = checkpoint["state_dict"][f"net.{norm}.{buffer}"]
            saved.copy_(value.reshape(saved.shape))
    for name in RECALIBRATED:
        checkpoint.get("callbacks", {}).pop(name, None)
    checkpoint["recalibrated"] = {"data": images.name, "images": count}
    checkpoint_file.save(checkpoint, out)
    return out
