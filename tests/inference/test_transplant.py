"""The oracles are the network itself with a norm replaced by hand, and statistics in one float64 pass."""

import copy
import csv
import itertools
import shlex
import xml.etree.ElementTree as ET

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests import foreign
from tests.conftest import TINY
from tests.foreign import SIZE
from vitbn.cli import main
from vitbn.config import compose as config
from vitbn.inference.transplant import Damage, Place, Transplant, layernorm_places
from vitbn.inference.transplant_report import FILE, heat_map
from vitbn.models.placements import Slot, complete, named
from vitbn.models.surgery import replace_norms
from vitbn.models.vit import VisionTransformer
from vitbn.norms import TokenBatchNorm
from vitbn.weights.files import Weights, write
from vitbn.weights.network import Network, load_network


def network(placement="vit", dtype=torch.float64, **options):
    """A network of ours with weights away from their start."""
    kinds = named(placement) if isinstance(placement, str) else placement
    options = {**TINY, **options, "placement": complete(kinds)}
    torch.manual_seed(0)
    net = VisionTransformer(**options).to(dtype).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.4 * torch.randn(parameter.shape, dtype=dtype)
    config = {"model": {"name": "tiny", "_target_": "vitbn.VisionTransformer", **options}}
    return Network(net, tuple("0123456789"), 28, 1, (0.5,), (0.25,), config, "tiny.safetensors")


def pictures(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator)


def transplant(net, truth=None, chosen=None, calibrate=None):
    calibrate = pictures(300) if calibrate is None else calibrate
    places = layernorm_places(net.net) if chosen is None else chosen
    return Transplant(net.net, places, calibrate, pictures(40, seed=2), truth, prepare=net.normalise)


def names(net):
    return [str(place) for place in layernorm_places(net.net)]


def test_sites_are_the_layernorms_in_the_order_of_the_data():
    assert names(network()) == ["embed_in", "embed_out", "attn_in 1", "ffn_in 1", "attn_in 2", "ffn_in 2", "final"]
    everywhere = network(dict.fromkeys(Slot, "layer"), depth=1)
    assert names(everywhere) == [str(s) if s in ("embed_in", "embed_out", "final") else f"{s} 1" for s in Slot]
    assert names(network("vitbnffn", depth=1)) == ["embed_in", "embed_out", "attn_in 1", "final"]
    assert names(network("vitbn")) == []


def inputs_of(net, path, images):
    """What all tokens bring to a module: the last block must not leave any out, as it does for the CLS token alone."""
    seen, net = [], copy.deepcopy(net)
    net.net.pool = "mean"
    net.net.get_submodule(path).register_forward_hook(lambda module, args, out: seen.append(args[0]))
    with torch.no_grad():
        net.net(net.normalise(images).double())
    return seen[0].reshape(-1, seen[0].shape[-1])


@pytest.mark.parametrize("path", ["embedding.in_norm", "blocks.0.attn_in", "blocks.1.ffn_in", "final_norm"])
def test_statistics_and_affine_map_are_those_of_one_pass_in_float64(path):
    net, images = network(), pictures(300)
    work = transplant(net)
    (place,) = (place for place in work.places if path in place.paths)
    norm = work.calibrated([place])[path]
    x = inputs_of(net, path, images)
    assert isinstance(norm, TokenBatchNorm) and not norm.training
    torch.testing.assert_close(norm.running_mean, x.mean(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(norm.running_var, x.var(0, unbiased=False), rtol=1e-12, atol=0)
    with torch.no_grad():
        # least squares by another way, feature by feature, from BatchNorm's normalised input to LayerNorm's output
        normed = F.batch_norm(x, x.mean(0), x.var(0, unbiased=False), eps=1e-5)
        target = net.net.get_submodule(path)(x)
    for feature in range(0, x.shape[1], 5):
        design = torch.stack([normed[:, feature], torch.ones(len(x))], 1)
        slope, start = torch.linalg.lstsq(design, target[:, feature]).solution
        assert norm.weight[feature].item() == pytest.approx(slope.item(), abs=1e-9)
        assert norm.bias[feature].item() == pytest.approx(start.item(), abs=1e-9)


def shuffled_pictures(count, seed):
    """Images whose patches all have the same 49 pixels in another order: LayerNorm on them is one affine map."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256, (49,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    patches = torch.stack([values[torch.randperm(49, generator=generator)] for _ in range(16 * count)])
    tiled = patches.view(count, 4, 4, 7, 7).permute(0, 1, 3, 2, 4)
    return tiled.reshape(count, 1, 28, 28)


def test_no_damage_where_layernorm_is_an_affine_map_of_the_data():
    net, measured = network(), shuffled_pictures(20, seed=2)
    place = layernorm_places(net.net)[0]
    work = Transplant(net.net, [place], shuffled_pictures(60, seed=1), measured, prepare=net.normalise)
    inputs = net.normalise(measured).double()
    with torch.no_grad():
        before = net.net(inputs)
        damage = work.alone()[place]
        assert damage.kl < 1e-12 and damage.changed == 0 and damage.accuracy is None
        assert work.damage().kl == 0  # put back
        (step,) = work.in_greedy_order()
        assert isinstance(net.net.embedding.in_norm, TokenBatchNorm) and step.place == place
        torch.testing.assert_close(net.net(inputs), before, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["timm", "Hugging Face", "torchvision", "vit-pytorch"])
def test_networks_of_other_libraries(name):
    net = foreign.NETWORKS[name]()
    images = torch.rand(24, 3, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    slots = ("attn_in", "ffn_in", "final")
    places = [place for place in layernorm_places(net) if place.slot in slots]
    assert list(map(str, places)) == ["attn_in 1", "ffn_in 1", "attn_in 2", "ffn_in 2", "final"]
    before = foreign.logits(net, images)
    at_once = replace_norms(copy.deepcopy(net), dict.fromkeys(slots, "batch"), calibrate=[images])
    work = Transplant(net, places, images, images, before.argmax(1))
    alone = work.alone()
    assert work.damage().kl == 0 and all(damage.kl > 0 for damage in alone.values())
    *_, last = work.in_greedy_order()
    assert last.damage.accuracy == 1 - last.damage.changed
    torch.testing.assert_close(foreign.logits(net, images), foreign.logits(at_once, images), rtol=0, atol=1e-9)


def by_hand(net, replaced, images):
    """Replace these places of a copy with calibrated BatchNorms, the last two Linear steps spelled out."""
    net = copy.deepcopy(net)
    for place in replaced:
        for path in place.paths:
            x, layer = inputs_of(net, path, images), net.net.get_submodule(path)
            with torch.no_grad():
                mean, var = x.mean(0), x.var(0, unbiased=False)
                z = F.layer_norm(x, x.shape[-1:], eps=layer.eps)
                covariance = ((x - mean) * (z - z.mean(0))).mean(0)
                norm = TokenBatchNorm(len(mean), eps=layer.eps).double().eval()
                norm.weight.copy_(layer.weight * covariance / var * (var + layer.eps).sqrt())
                norm.bias.copy_(layer.bias + layer.weight * z.mean(0))
                norm.running_mean.copy_(mean), norm.running_var.copy_(var)
            net.net.set_submodule(path, norm)
    return net.net


def divergence(net, other, images):
    with torch.no_grad():
        p, q = (each(net.normalise(images).double()).softmax(-1) for each in (net.net, other))
    return F.kl_div(q.log(), p, reduction="batchmean").item()


def test_greedy_order_is_that_of_brute_force():
    net, calibrate, measured = network("vit_b16", depth=1), pictures(300), pictures(40, seed=2)
    three = layernorm_places(net.net)
    assert len(three) == 3
    # in the order the data passes them, as the result is calibrated in the end
    exact = {
        subset: divergence(net, by_hand(net, subset, calibrate), measured)
        for count in (1, 2, 3)
        for subset in itertools.combinations(three, count)
    }

    def replaced_upstream_first(done, more):
        """The candidate calibrated for the network as it is, what is done keeping its calibration."""
        return divergence(net, by_hand(net, [*done, more], calibrate), measured)

    done, expected = [], []
    while len(done) < 3:
        best = min((s for s in three if s not in done), key=lambda s: replaced_upstream_first(done, s))
        done = [place for place in three if place in (*done, best)]
        expected.append((best, exact[tuple(done)]))
    work = transplant(copy.deepcopy(net))
    alone, steps = work.alone(), work.in_greedy_order()
    assert {place: damage.kl for place, damage in alone.items()} == pytest.approx(
        {place: exact[(place,)] for place in three}, rel=1e-6
    )
    assert [step.place for step in steps] == [place for place, _ in expected]
    assert [step.damage.kl for step in steps] == pytest.approx([kl for _, kl in expected], rel=1e-6)


def test_damage_counts_changed_predictions_and_accuracy():
    net = network()
    measured = pictures(40, seed=2)
    with torch.no_grad():
        before = net.net(net.normalise(measured).double()).argmax(1)
    truth = torch.where(torch.arange(40) < 30, before, (before + 1) % 10)
    work = transplant(net, truth)
    assert (work.original.kl, work.original.changed, work.original.accuracy) == (0, 0, 0.75)
    with torch.no_grad():
        net.net.head.bias[3] += 1e4
    damage = work.damage()
    assert damage.changed == (before != 3).double().mean() and damage.accuracy == (truth == 3).double().mean()
    assert damage.kl > 100
    with torch.no_grad():
        net.net.head.bias[3] = float("nan")
    assert work.damage().kl == float("inf")


@pytest.fixture
def file(tmp_path):
    """Weights of a published kind in a file of ours, which sees three channels."""
    options = {**SIZE, "norm_eps": 1e-6}
    torch.manual_seed(3)
    net = VisionTransformer(**options)
    path = tmp_path / "vit.safetensors"
    write(Weights(net.state_dict(), options, ("cat", "dog", "owl"), (0.5,) * 3, (0.5,) * 3, path))
    return path


@pytest.fixture
def folder(tmp_path):
    """Thirty colour images below folders named as the labels."""
    from torchvision.io import write_png

    generator = torch.Generator().manual_seed(0)
    for number in range(30):
        place = tmp_path / "pictures" / ("cat", "dog", "owl")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        image = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8, generator=generator)
        write_png(image, str(place / f"{number}.png"))
    return tmp_path / "pictures"


def test_the_command_writes_pictures_tables_and_a_network(file, folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["transplant", "--ckpt", str(file), "--data", str(folder), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "15 images calibrate, 15 measure" in shown and "5 norms" in shown
    damaged, ordered = (list(csv.DictReader((out / f"{name}.csv").open())) for name in ("damage", "order"))
    places = [(row["slot"], row["layer"]) for row in damaged]
    assert places == [("attn_in", "1"), ("ffn_in", "1"), ("attn_in", "2"), ("ffn_in", "2"), ("final", "")]
    assert [row["step"] for row in ordered] == list("012345") and float(ordered[0]["kl"]) == 0
    assert sorted((row["slot"], row["layer"]) for row in ordered[1:]) == sorted(places)
    assert float(ordered[1]["kl"]) == min(float(row["kl"]) for row in damaged)
    for name in ("transplant-damage", "transplant-order"):
        assert (out / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert ET.parse(out / f"{name}.svg").getroot().tag.endswith("svg")
    made = load_network(out / FILE)
    kinds = complete(made.config["model"]["placement"])
    assert kinds == complete(named("vit_b16_batch")) and made.labels == ("cat", "dog", "owl")
    typed = shlex.split(shown.partition("vitbn train ")[2])
    assert {"depth=2", "model.heads=2", "model.qkv_bias=true", "norm=vit_b16_batch"} <= set(typed)
    # all of it can be typed
    asked = config.compose_config([*typed, f"data.root={folder}", "data.num_classes=3"])["data"]
    assert (asked.name, asked.image_size, asked.channels, list(asked.mean)) == ("folder", 28, 3, [0.5] * 3)


def test_only_some_slots_are_a_placement_too(file, folder, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["transplant", "--ckpt", str(file), "--data", str(folder), "--out", str(out), "--slots", "ffn_in"]
    assert main([*command, "--images", "7"]) == 0
    made = load_network(out / FILE)
    found = {type(made.net.get_submodule(path)) for path in ("blocks.0.attn_in", "blocks.1.attn_in", "final_norm")}
    assert found == {nn.LayerNorm} and isinstance(made.net.blocks[1].ffn_in, TokenBatchNorm)
    assert "norm.ffn_in=batch" in capsys.readouterr().out


def test_the_heat_map_has_slots_in_rows_and_blocks_in_columns():
    damages = {place: Damage(kl, 0.5, accuracy) for place, kl, accuracy in (
        (Place(Slot.embed_out, None, ()), 0.5, 0.25), (Place(Slot.attn_in, 1, ()), 0.0, 0.75),
        (Place(Slot.final, None, ()), 2.0, 0.8125),
    )}  # fmt: skip
    for accuracy, words in ((0.75, ("−50.0", "+0.0", "+6.2")), (None, ("50.0",) * 3)):
        (ax, _) = heat_map(Damage(0, 0, accuracy), damages).figure.axes
        assert [label.get_text() for label in ax.get_yticklabels()] == ["embed_out", "attn_in", "final"]
        assert [label.get_text() for label in ax.get_xticklabels()] == ["before", "1", "2", "after"]
        found = {text.get_position(): text.get_text() for text in ax.texts}
        assert found == dict(zip([(0, 0), (2, 1), (3, 2)], words, strict=True))
        table = ax.images[0].get_array()
        assert table[0, 0] == 0.5 and table[2, 3] == 2.0 and table.mask.sum() == 12 - 3


@pytest.mark.slow
def test_fine_tuning_starts_from_the_transplanted_network(make_run, tmp_path, capsys):
    from vitbn.data.datamodule import ImageData
    from vitbn.models.factory import build
    from vitbn.training.fingerprint import digest
    from vitbn.training.outcome import attempt
    from vitbn.training.train import train
    from vitbn.weights.pretrained import load_pretrained

    run = make_run("epochs=1", "data.mean=0.2", "data.std=0.3", "data.augment=false", "lr=0.02")
    before = attempt(run, train)["metrics"]["test/acc"]
    out = tmp_path / "out"
    assert main(["transplant", "--ckpt", str(run.folder), "--images", "300", "--out", str(out)]) == 0
    typed = capsys.readouterr().out.partition("vitbn train ")[2].split()
    assert "norm=vit_batch" in typed and "data=fashion_mnist" in typed
    made, order = load_network(out / FILE), list(csv.DictReader((out / "order.csv").open()))
    test = ImageData.of(run.config).test
    with torch.no_grad():
        logits = made.net(made.normalise(test.images))
    after = (logits.argmax(1) == test.labels).double().mean().item()
    assert [float(row["accuracy"]) for row in (order[0], order[-1])] == pytest.approx([before, after], abs=1e-6)

    tuned = make_run(*typed, "data.mean=0.2", "data.std=0.3", "epochs=1")
    net = build(tuned.config["model"], seed=5)
    load_pretrained(net, tuned.config)
    with torch.no_grad():
        assert torch.equal(net.eval()(made.normalise(test.images)), logits)
    assert attempt(tuned, train)["fingerprint"]["init"] == digest(*made.net.parameters())


def test_bad_input_is_one_line(file, folder, tmp_path, capsys):
    def refused(words, *args, ckpt=file):
        status = main(["transplant", "--ckpt", str(ckpt), "--out", str(tmp_path / "out"), *map(str, args)])
        captured = capsys.readouterr()
        assert status == 2 and captured.err.startswith("error: ") and captured.err.count("\n") == 1
        assert words in captured.err and not (tmp_path / "out").exists()

    refused("imported weights; give --data: a data set's name or a folder of images")
    refused("--data nowhere: neither a folder nor one of cifar10, cifar100, emnist, ", "--data", "nowhere")
    refused("--data mnist5k: images of 1 channels, the network sees 3", "--data", "mnist5k")
    refused("--slots ffn_inn: unknown; choose from embed_in", "--data", folder, "--slots", "ffn_inn")
    refused("--slots qk: no LayerNorm there; choose from attn_in, ffn_in, final", "--data", folder, "--slots", "qk")
    refused("--images 1: must be at least 2", "--data", folder, "--images", 1)
    (tmp_path / "one").mkdir()
    refused("one: a folder without images", "--data", tmp_path / "one")
    next(folder.rglob("*.png")).rename(tmp_path / "one" / "a.png")
    refused("one: one image; it takes at least two", "--data", tmp_path / "one")
    options = {**SIZE, "placement": named("vit_b16_batch")}
    batch = Weights(VisionTransformer(**options).state_dict(), options, ("a", "b", "c"), (0.5,) * 3, (0.5,) * 3,
                    tmp_path / "batch.safetensors")  # fmt: skip
    write(batch)
    refused("has no LayerNorm to replace", "--data", folder, ckpt=batch.source)


def test_a_site_says_its_slot_and_block():
    assert str(Place(Slot.attn_in, 4, ())) == "attn_in 5" and str(Place(Slot.final, None, ())) == "final"
