"""The LightningModule against the plainest loop."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.nn import functional as F
from torchvision.transforms import v2

from tests.conftest import TINY
from vitbn import ViT, rng
from vitbn.data.batches import Batch
from vitbn.models.factory import build
from vitbn.models.placements import named
from vitbn.store import checkpoint_file
from vitbn.training.module import Classifier, Mean
from vitbn.training.outcome import attempt
from vitbn.training.train import train

SIZE = {"image_size": 28, "channels": 1, "num_classes": 10}
NARROW = {**TINY, "dim": 8, "dim_head": 8}  # merged attention is cheaper
NETWORKS = {
    **{name: {"_target_": f"vitbn.{name}", **NARROW} for name in ("ViT", "ViTBNFFN", "ViTBN")},
    "ViTBN scalar": {"_target_": "vitbn.ViTBN", **NARROW, "placement": named("vitbn_scalar")},
    "ViT mean": {"_target_": "vitbn.ViT", **TINY, "pool": "mean"},
    "DNN": {"_target_": "vitbn.models.mlp.MLP", **SIZE, "hidden": [20, 20], "activation": "sigmoid", "norm": "none"},
    "MLP + BN": {"_target_": "vitbn.models.mlp.MLP", **SIZE, "hidden": [20], "activation": "relu", "norm": "batch"},
    "ResNet34": {"_target_": "vitbn.models.published.resnet34", **SIZE},
}
STEPS = {"ResNet34": 3}  # enough for its size; the others train 200
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def make_adam(net):
    return torch.optim.Adam(net.parameters(), lr=0.003, fused=True)


class Losses(pl.Callback):
    """The loss of every step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())
        assert trainer.global_step == len(self.values)


@pytest.fixture
def fit(tmp_path):
    """Trains a module on batches for an epoch; the loss of every step, and what was logged."""

    def run(module, batches, **options):
        losses = Losses()
        trainer = pl.Trainer(
            max_epochs=1, devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path, callbacks=[losses], **options,
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
        return losses.values, trainer.callback_metrics

    return run


def plain_loop(net, batches):
    """Adam parameter by parameter; losses and the norms of the gradients."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003, foreach=False)
    losses, norms = [], []
    for images, labels in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        norms.append(torch.cat([p.grad.flatten() for p in net.parameters()]).norm().item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "ViTBNFFN" else pytest.mark.slow) for n in NETWORKS])
def test_training_is_that_of_the_plainest_loop(name, device, fit):
    """As train.py trains (fused Adam, merged attention, only the tokens that are read), in float64."""
    generator = torch.Generator().manual_seed(0)
    steps = STEPS.get(name, 200)
    images = torch.rand(steps, 8, 1, 28, 28, dtype=torch.float64, generator=generator).to(device)
    batches = [Batch(x, ((torch.arange(8) + i) % 10).to(device)) for i, x in enumerate(images)]
    config = {"name": name, **NETWORKS[name]}
    module = Classifier(build(config, seed=0), num_classes=10, make_optimizer=make_adam)
    losses, logged = fit(module, batches, accelerator=device, precision="64-true")
    expected, norms = plain_loop(build(config, seed=0).double().to(device), batches)
    assert len(losses) == steps and losses[-1] != losses[0]
    assert losses == pytest.approx(expected, rel=1e-8)
    assert logged["train/loss"].item() == pytest.approx(sum(expected) / steps, rel=1e-6)
    assert logged["gradient norm"].item() == pytest.approx(sum(norms) / steps, rel=1e-6)


def test_metrics_are_those_of_all_samples_together(tmp_path):
    """Unequal batches are weighted by their size."""
    module = Classifier(build({"name": "vit", "_target_": "vitbn.ViT", **TINY}, seed=0), num_classes=10,
                        make_optimizer=make_adam)  # fmt: skip
    images, labels = torch.rand(70, 1, 28, 28), torch.arange(70) % 10
    batches = [Batch(images[rows], labels[rows]) for rows in (slice(0, 50), slice(50, 70))]
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    (logged,) = trainer.test(module, torch.utils.data.DataLoader(batches, batch_size=None), verbose=False)
    with torch.no_grad():
        logits = module.eval()(images)
    assert logged["test/loss"] == pytest.approx(F.cross_entropy(logits, labels).item())
    assert logged["test/acc"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    counts = torch.zeros(10, 10, dtype=torch.long)
    for true, predicted in zip(labels, logits.argmax(1), strict=True):
        counts[true, predicted] += 1
    assert torch.equal(module.confusion.compute(), counts)


def test_dropout_is_a_function_of_seed_and_step(fit):
    """Whatever else draws random numbers between two steps."""
    batches = [Batch(torch.rand(4, 1, 28, 28), torch.arange(4)) for _ in range(3)]

    def losses(seed, noise=0):
        net = ViT(**{**TINY, "dropout": 0.5, "emb_dropout": 0.5})
        net.load_state_dict(build({"name": "vit", "_target_": "vitbn.ViT", **TINY}, seed=0).state_dict())
        torch.rand(noise)
        return fit(Classifier(net, num_classes=10, make_optimizer=make_adam, seed=seed), batches, accelerator="cpu")[0]

    assert losses(0) == losses(0, noise=99) != losses(1)


def test_every_step_draws_other_masks(fit):
    """The weights stand still, so that equal images would give equal losses under equal masks."""
    net = ViT(**{**TINY, "dropout": 0.5})
    batch = Batch(torch.rand(4, 1, 28, 28), torch.arange(4))
    module = Classifier(net, num_classes=10, make_optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=0.0))
    losses, _ = fit(module, [batch] * 5, accelerator="cpu")
    assert len(set(losses)) == 5


def test_sums_and_norms_are_those_of_float32_in_a_bfloat16_network(fit):
    """Sums of 300 losses kept in bfloat16 would have stopped growing at 256."""
    net = build({"name": "vit", "_target_": "vitbn.ViT", **TINY}, seed=0)
    batches = [Batch(torch.rand(2, 1, 28, 28), torch.tensor([1, 2])) for _ in range(300)]
    module = Classifier(net, num_classes=10, make_optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=0.0))
    losses, logged = fit(module, batches, accelerator="cpu", precision="bf16-true")
    assert logged["train/loss"].item() == pytest.approx(sum(losses) / 300, rel=1e-6)
    norms = []
    for images, labels in batches[:20]:
        net.zero_grad()
        F.cross_entropy(net(images.bfloat16()).float(), labels).backward()
        norms.append(torch.cat([p.grad.float().flatten() for p in net.parameters()]).norm())
    module = Classifier(net, num_classes=10, make_optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=0.0))
    _, logged = fit(module, batches[:20], accelerator="cpu", precision="bf16-true")
    assert logged["gradient norm"].item() == pytest.approx(sum(norms).item() / 20, rel=1e-5)


def test_a_sum_stays_in_float32_when_its_module_becomes_bfloat16():
    sums = Mean()
    sums.update(torch.tensor(1.0009765625))
    assert sums.to(torch.bfloat16).total.item() == 1.0009765625 and sums.to(torch.float64).total.dtype == torch.float64


@pytest.mark.parametrize("fused", [False, True])
def test_gradient_norms_under_float16_are_without_its_scale(fit, fused):
    net = build({"name": "vit", "_target_": "vitbn.ViT", **TINY}, seed=0)
    batches = [Batch(torch.rand(4, 1, 28, 28), torch.arange(4)) for _ in range(3)]

    def norm(**options):
        def sgd(net):
            return torch.optim.SGD(net.parameters(), lr=0.0, fused=fused)

        return fit(Classifier(net, num_classes=10, make_optimizer=sgd), batches, accelerator="cpu", **options)[1][
            "gradient norm"
        ].item()

    scaled = MixedPrecision("bf16-mixed", "cpu")
    scaled.scaler = torch.amp.GradScaler("cpu")
    assert norm(plugins=[scaled]) == pytest.approx(norm(), rel=0.05)


@pytest.mark.parametrize(("options", "names"), [({"mixup": 0.8}, {"MixUp"}), ({"cutmix": 1.0}, {"CutMix"}),
                                                ({"mixup": 0.8, "cutmix": 1.0}, {"MixUp", "CutMix"})])  # fmt: skip
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
def test_mixed_batches_train_as_torchvision_mixes_them(fit, options, names, precision):
    """Images of three channels; the accuracy is against the label with the greater share."""
    seen = []

    class Images(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3, 4)

        def forward(self, images):
            seen.append(images)
            return self.head(images.mean((2, 3)))

    batches = [Batch(torch.rand(6, 3, 8, 8), torch.arange(6) % 4) for _ in range(8)]
    module = Classifier(Images(), num_classes=4, seed=5, label_smoothing=0.1, **options,
                        make_optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=0.0))  # fmt: skip
    losses, logged = fit(module, batches, accelerator="cpu", precision=precision)
    dtype = {"32-true": torch.float32, "64-true": torch.float64, "bf16-true": torch.bfloat16}[precision]
    transforms = [make(alpha=alpha, num_classes=4) for make, alpha in ((v2.MixUp, options.get("mixup")),
                  (v2.CutMix, options.get("cutmix"))) if alpha]  # fmt: skip
    used, right = set(), 0
    for step, batch in enumerate(batches):
        torch.manual_seed(rng.key(5, "step", step, 0))
        transform = transforms[int(torch.multinomial(torch.ones(len(transforms)) / len(transforms), 1))]
        used.add(type(transform).__name__)
        images, labels = transform(batch.images.to(dtype), batch.labels)
        assert images.dtype == dtype and torch.equal(images, seen[step])
        logits = module.net.head(images.mean((2, 3)))
        logits = logits if dtype == torch.float64 else logits.float()
        loss = F.cross_entropy(logits, labels.to(logits.dtype), label_smoothing=0.1)
        assert losses[step] == pytest.approx(loss.item(), rel=1e-6)
        right += (logits.argmax(1) == labels.argmax(1)).sum().item()
    assert used == names and logged["train/acc"].item() == pytest.approx(right / 48)


@pytest.mark.parametrize(("flags", "share"), [((), 11 / 12), (("trainer.max_steps=8",), 7 / 8)])
def test_norms_are_told_how_much_of_the_training_is_over(make_run, flags, share):
    run = make_run("epochs=2", "norm.final=prep_batch", *flags)
    attempt(run, train)
    state = checkpoint_file.load(run.checkpoints / "last.ckpt")["state_dict"]
    assert state["net.final_norm.progress"].item() == pytest.approx(share)
