"""Training on image folders: every published network, and MNIST as a folder."""

import csv
import json

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from vitbn.config import compose as config
from vitbn.config.checks import check
from vitbn.data import sources
from vitbn.data.datamodule import ImageData
from vitbn.data.folder import scan
from vitbn.models.factory import build, make_optimizer
from vitbn.store.run import Run
from vitbn.training.module import Classifier
from vitbn.training.outcome import attempt
from vitbn.training.train import train

pytestmark = pytest.mark.slow

FOLDER = ["data=folder", "data.cache_size=80", "trainer=cpu", "batch_size=4", "epochs=1", "optimizer=sgd", "lr=0.001"]


def composed(*overrides):
    scan.cache_clear()
    tree = config.to_plain_dict(config.compose_config(overrides))
    check(tree)
    return tree


@pytest.mark.parametrize(
    "options",
    [("model=alexnet", "data.image_size=67"), ("model=vgg16", "data.image_size=32"),
     ("model=resnet34", "data.image_size=32"), ("model=vit_b16", "data.image_size=32", "depth=1"),
     ("model=vit_b16", "data.image_size=32", "depth=1", "norm=vitbnffn")],
    ids=["alexnet", "vgg16", "resnet34", "vit_b16", "vit_b16 with vitbnffn's norms"],
)  # fmt: skip
def test_every_published_network_trains_on_a_folder(photos, options):
    cfg = composed(*FOLDER, f"data.root={photos}", *options)
    assert cfg["model"]["num_classes"] == 2
    data, net = ImageData.of(cfg), build(cfg["model"], seed=0)
    before = {name: parameter.detach().clone() for name, parameter in list(net.named_parameters())[-2:]}
    classifier = Classifier(net, num_classes=2, make_optimizer=make_optimizer(cfg["optimizer"], cfg["lr"]))
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(classifier, data.train_dataloader(), data.val_dataloader())
    assert trainer.global_step == 2 and trainer.callback_metrics["train/loss"].isfinite()
    parameters = dict(net.named_parameters())
    assert all(parameter.grad is not None for parameter in parameters.values())
    assert all(not torch.equal(parameters[name], value) for name, value in before.items())


@pytest.fixture
def exported(clothes, tmp_path):
    """The small data set in MNIST's format as a folder of PNG files, numbered as they lie in it."""
    source = sources.load("fashion_mnist", clothes)
    for part, split in (("train", source.train), ("test", source.test)):
        for number, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True)):
            folder = tmp_path / "png" / part / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{number:05}.png")
    return tmp_path / "png"


def ending(make_run, *overrides):
    scan.cache_clear()
    run = make_run("model=vitbnffn", *overrides)
    attempt(run, train)
    result = json.loads((run.folder / "result.json").read_text())
    with (run.folder / "metrics.csv").open() as file:
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    weights = torch.load(run.checkpoints / "last.ckpt", weights_only=True)["state_dict"]
    return run, rows, {key: result[key] for key in ("status", "metrics", "fingerprint", "confusion")}, weights


@pytest.mark.parametrize("options", [("data.augment=true",), ("data.augment=crop", "data.holdout=50")])
def test_mnist_as_a_folder_trains_to_the_same_numbers(make_run, exported, options):
    as_folder = (
        "data=folder", f"data.root={exported}", "data.channels=1", "data.image_size=28", "data.cache_size=28",
        "data.mean=0", "data.std=1", "data.name=fashion_mnist", "val_batch_size=5000",
    )  # fmt: skip
    idx, folder = ending(make_run, *options), ending(make_run, *as_folder, *options)
    assert folder[1] == idx[1] and folder[2] == idx[2] and len(folder[1]) == 2
    assert all(torch.equal(folder[3][name], idx[3][name]) for name in idx[3])
    assert idx[0].id != folder[0].id


def test_a_run_is_named_by_what_the_folder_holds_not_by_where_it_lies(photos, tmp_path):
    def name(root):
        return Run(composed(*FOLDER, "model=resnet34", f"data.root={root}", "data.cache=elsewhere")).id

    before = name(photos)
    photos.rename(tmp_path / "moved")
    assert name(tmp_path / "moved") == before
    (tmp_path / "moved" / "val" / "cat" / "cat3.png").unlink()
    assert name(tmp_path / "moved") != before


def test_classes_of_any_name_train_to_the_end(photos, tmp_path, caplog):
    """With the default logger, whose confusion picture names them."""
    for part in (photos / "train", photos / "val"):
        (part / "cat").rename(part / "$\\foo$")
        (part / "dog").rename(part / "caf\udce9")
    run = Run(composed(*FOLDER, f"data.root={photos}", f"runs={tmp_path}/runs", "depth=1"))
    assert attempt(run, train)["status"] == "done" and [*run.folder.glob("events.out.tfevents.*")]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
