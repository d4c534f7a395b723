"""One training: parts -> fit -> test -> what result.json says. Light to import: torch comes with the first call."""

from typing import TYPE_CHECKING, Any

from vitbn.store.run import Run
from vitbn.training.outcome import Signals
from vitbn.training.spared import BY_TORCHMETRICS, spared

if TYPE_CHECKING:
    from vitbn.training.assembly import Parts


def train(run: Run, signals: Signals) -> dict[str, Any]:
    """Train and test; the calling process is one of as many as `trainer.devices` says."""
    with spared(*BY_TORCHMETRICS):
        from vitbn.training.assembly import assemble
    from vitbn.training.matmul import flushed_denormals

    with flushed_denormals():  # around everything: threads that torch starts take the setting over
        parts = assemble(run, signals)
        products = _fit_and_test(run, signals, parts)
        return _result(parts, products)


def _fit_and_test(run: Run, signals: Signals, parts: "Parts") -> str:
    """Returns the route that matrix products took."""
    from vitbn.store import checkpoint_file as sealed
    from vitbn.training import matmul

    cfg, trainer, classifier, data = run.config, parts.trainer, parts.classifier, parts.data
    probe = matmul.probe_images(cfg["batch_size"], cfg["data"]["channels"], cfg["data"]["image_size"])
    # processes that share a machine would disturb each other's probe, and must not come to different routes
    choice = cfg["matmul"] or (matmul.PLAIN if trainer.world_size > 1 else None)
    with matmul.routed(choice, classifier.net, probe, trainer.strategy.root_device) as products:
        if cfg["compile"]:
            classifier.net.compile()
        with signals.deferred():
            trainer.fit(classifier, data, ckpt_path=sealed.newest_whole(run.checkpoints))
        if trainer.is_global_zero:
            parts.metrics_file.write()
        trainer.test(classifier, data, verbose=False)
    return products


def _result(parts: "Parts", products: str) -> dict[str, Any]:
    from vitbn.training.fingerprint import environment

    trainer, rows = parts.trainer, parts.metrics_file.rows
    metrics = {name: rows[-1][name] for name in ("train/loss", "train/acc", "val/loss", "val/acc")}
    metrics |= {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    return {
        "label": "stuck" if rows[-1]["val/acc"] <= parts.chance else None,
        "metrics": metrics,
        "epochs": len(rows),
        "error": None,
        "matmul": products,
        "cuda_graph": parts.classifier.captured is not None,
        "fingerprint": parts.fingerprint,
        "confusion": parts.classifier.confusion.compute().tolist(),
        **environment(trainer.strategy.root_device, trainer.world_size),
    }
