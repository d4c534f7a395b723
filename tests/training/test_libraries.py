"""Networks of other libraries, from typed keys through a training to files that are read again."""

import json
import shlex
from dataclasses import replace

import pytest
import torch

from vitbn.analysis.arms import group
from vitbn.analysis.confounds import confounds
from vitbn.analysis.records import read_study
from vitbn.config.checks import check
from vitbn.config.compose import compose_config, to_plain_dict
from vitbn.errors import InputError
from vitbn.inference.evaluate import evaluate
from vitbn.inference.export import export
from vitbn.inference.predict import predict
from vitbn.inference.transplant_report import transplant_command
from vitbn.models.libraries import LIBRARIES, sum_colours
from vitbn.norms import TokenBatchNorm
from vitbn.store.run import Run
from vitbn.training.outcome import attempt
from vitbn.training.train import build_network, train
from vitbn.weights.network import load_network

TIMM = ["model=timm", "model.name=vit_tiny_patch16_224", "depth=2", "+model.patch_size=14", "+model.embed_dim=24",
        "+model.num_heads=2"]  # fmt: skip
HF = ["model=hf", "model.name=vit", "depth=1", "+model.patch_size=14", "+model.hidden_size=24",
      "+model.num_attention_heads=2", "+model.intermediate_size=32"]  # fmt: skip
PLACED = ["norm.ffn_in=none", "norm.ffn_hidden=batch"]
NETWORKS = {
    "timm's ViT": pytest.param(TIMM, marks=pytest.mark.slow),
    "timm's ViT, norms placed": [*TIMM, *PLACED],
    "timm's CNN": pytest.param(["model=timm", "model.name=test_resnet"], marks=pytest.mark.slow),
    "Hugging Face's ViT, norms placed": pytest.param([*HF, *PLACED], marks=pytest.mark.slow),
    "torchvision's CNN": pytest.param(["model=torchvision", "model.name=shufflenet_v2_x0_5"], marks=pytest.mark.slow),
    "torchvision's ViT, norms placed": pytest.param(
        ["model=torchvision", "model.name=tiny_vit", *PLACED], marks=pytest.mark.slow
    ),
}


@pytest.fixture(autouse=True)
def tiny_vit(monkeypatch):
    """One more name of torchvision's, of its own class: its smallest Vision Transformer has 86 million weights."""
    known = LIBRARIES["torchvision"]

    def make(torchvision, name, image_size, channels, num_classes, options):
        if name != "tiny_vit":
            return known.make(torchvision, name, image_size, channels, num_classes, options)
        net = torchvision.models.VisionTransformer(image_size, 14, 2, 2, 24, 32, num_classes=num_classes)
        sum_colours(net, channels)
        return net

    names = lambda torchvision: [*known.names(torchvision), "tiny_vit"]
    monkeypatch.setitem(LIBRARIES, "torchvision", replace(known, make=make, names=names))


@pytest.fixture
def make(tmp_path, clothes):
    """A run of another library's network on the made-up data set, 6 steps per epoch."""

    def made(*overrides: str) -> Run:
        fixed = ["data=fashion_mnist", f"data.root={clothes}", f"runs={tmp_path}/runs", "trainer=cpu", "epochs=2",
                 "batch_size=50", "log_every=1", "logger=none"]  # fmt: skip
        config = to_plain_dict(compose_config([*fixed, *overrides]))
        check(config, overrides)
        return Run(config)

    return made


@pytest.mark.parametrize("overrides", NETWORKS.values(), ids=NETWORKS)
def test_it_trains_resumes_exactly_and_its_files_are_read_again(make, kill, outcome, overrides, capsys):
    run = make(*overrides)
    assert attempt(run, train)["status"] == "done"
    cut = make(*overrides, "study=cut")
    kill(cut, "on_train_batch_end", 9)
    assert attempt(cut, train)["status"] == "done"
    assert outcome(cut) == outcome(run)

    network = load_network(run.folder)
    images = torch.rand(3, 1, network.image_size, network.image_size)
    (file, card) = export(str(run.folder), form="safetensors", fold=False)
    assert torch.equal(network.net(images), load_network(file).net(images))
    assert run.config["model"]["name"] in card.read_text()
    assert len(predict(network, (images * 255).byte(), top=2)) == 3
    evaluate(str(run.folder), as_json=True)
    assert json.loads(capsys.readouterr().out)["n"] == 100


def test_placed_norms_are_arms_of_the_report(make, tmp_path):
    for overrides in (TIMM, [*TIMM, *PLACED], HF):
        run = make(*overrides, "epochs=1")
        assert run.id.startswith(f"{run.config['model']['name']}-d{run.config['depth']}-")
        assert attempt(run, train)["status"] == "done"
    arms = {arm.placement: arm for arm in group(read_study(tmp_path / "runs" / "default"))}
    names = ("timm vit_tiny_patch16_224", "timm vit_tiny_patch16_224 ffn_in=none ffn_hidden=batch")
    assert set(arms) == {*names, "hf vit"}
    theirs, placed = (arms[name].runs[0] for name in names)
    assert confounds(theirs, placed) == []


def trained(make, *overrides):
    run = make(*overrides, "epochs=1")
    assert attempt(run, train)["status"] == "done"
    return run


@pytest.mark.parametrize("overrides", [TIMM, HF], ids=["timm", "Hugging Face"])
@pytest.mark.slow
def test_its_batchnorms_fold_into_a_file_that_is_read_again(make, overrides):
    run = trained(make, *overrides, *PLACED, "norm.final=batch")
    file, card = export(str(run.folder), form="safetensors")
    folded, images = load_network(file).net, torch.rand(3, 1, 28, 28)
    assert not [name for name, _ in folded.named_buffers() if name.endswith("running_var")]
    torch.testing.assert_close(folded(images), load_network(run.folder).net(images), atol=1e-5, rtol=0)
    assert "ffn_in: none, ffn_hidden: batch, final: batch; elsewhere those of the library" in card.read_text()


@pytest.mark.slow
def test_a_folding_that_its_library_has_no_option_for_is_refused(make):
    without_bias = [*TIMM, "model.name=vit_medium_patch16_gap_240"]
    run = trained(make, *without_bias, "norm.attn_in=batch")
    file, _ = export(str(run.folder), form="safetensors")
    images = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(load_network(file).net(images), load_network(run.folder).net(images), atol=1e-5, rtol=0)
    run = trained(make, *TIMM, "+model.proj_bias=false", "norm.attn_out=batch")
    with pytest.raises(InputError, match=r"could not be read again \(does not fit .*proj.bias\); use --no-fold"):
        export(str(run.folder), form="safetensors")
    assert not list(run.folder.glob("export/*"))


@pytest.mark.parametrize("overrides", [TIMM, HF], ids=["timm", "Hugging Face"])
@pytest.mark.slow
def test_what_transplant_prints_trains_on(make, tmp_path, overrides, capsys):
    run, out = trained(make, *overrides), tmp_path / "transplanted"
    transplant_command(str(run.folder), data=None, root=None, count=50, slots=[], out=out)
    words = shlex.split(capsys.readouterr().out.rpartition("fine-tune: vitbn train ")[2])
    tuned = make(*words, "trainer.limit_train_batches=1")
    net, written = build_network(tuned.config), load_network(out / "transplanted.safetensors").net
    assert {**net.state_dict()}.keys() == written.state_dict().keys()
    assert all(torch.equal(value, written.state_dict()[name]) for name, value in net.state_dict().items())
    assert sum(isinstance(module, TokenBatchNorm) for module in net.modules()) == 2 * tuned.config["depth"] + 1


def test_networks_of_one_name_and_two_libraries_are_two_runs_without_a_depth(make):
    ids = {make(f"model={library}", "model.name=resnet18").id for library in ("timm", "torchvision")}
    assert len(ids) == 2 and all(name.startswith("resnet18-lr") for name in ids)


def test_ours_keep_their_names(make_run):
    assert make_run("model=vit").id.startswith("vit-d1-lr")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model=timm", "model.name=resnet81"], "did you mean resnet18"),
        (
            ["model=timm", "model.name=vit_tiny_patch16_224"],
            "patches of 16 pixels, which do not divide images of 28; type \\+model.patch_size=7",
        ),
        (["model=timm", "model.name=test_resnet", "norm.ffn_in=batch"], "norm.ffn_in=batch: ResNet"),
        ([*TIMM, "+model.foo=3"], "foo=3: timm's vit_tiny_patch16_224 has no such option"),
        ([*TIMM, "pool=mean"], "pool=mean"),
        ([*HF, "model.pretrained=true"], "model.pretrained=true"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(make, tmp_path, overrides, line):
    with pytest.raises(InputError, match=line):
        make(*overrides)
    assert not (tmp_path / "runs").exists()


def test_a_strangers_configuration_names_no_network_from_elsewhere(make, tmp_path):
    run = make(*TIMM, "epochs=1")
    assert attempt(run, train)["status"] == "done"
    file = run.folder / "config.yaml"
    text = file.read_text()
    for theirs, line in (
        ("name: hf-hub:evil/net", "model is not a named network"),
        ("name: hf-hub_evil", "unknown network of timm"),
        ("name: vit_tiny_patch16_224\n  checkpoint_path: x.pth", "checkpoint_path: cannot be typed"),
        ("name: vit_tiny_patch16_224\n  blocks: 100000", "blocks=100000: at most 250"),
    ):
        file.write_text(text.replace("name: vit_tiny_patch16_224", theirs))
        with pytest.raises(InputError, match=line) as refused:
            load_network(run.folder)
        assert "\n" not in str(refused.value)
    file.write_text(text.replace("    ffn_in: null", "    ffn_in: evil.Norm"))
    with pytest.raises(InputError, match=r"evil\.Norm"):
        load_network(run.folder)
