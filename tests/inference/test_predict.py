import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from tests import foreign
from vitbn.cli import main
from vitbn.data.decode import MAX_PIXELS
from vitbn.data.sources import load
from vitbn.inference.predict import as_it_is, predict_files
from vitbn.serve.command import packaged_weights
from vitbn.weights.network import load_network

LABELS = {"id2label": {"0": "cat", "1": "dog", "2": "owl"}, "num_attention_heads": 2}
PIXELS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}


@pytest.fixture
def weights(tmp_path) -> Path:
    """A folder in the hub's layout."""
    folder = tmp_path / "net"
    foreign.saved(folder, foreign.huggingface().state_dict(), LABELS)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    return folder


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Seventy small colour images in two folders, and one text file."""
    generator = np.random.default_rng(0)
    for number in range(70):
        file = tmp_path / "pictures" / str(number % 2) / f"{number:02}.{('png', 'bmp')[number % 3 == 0]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(file)
    (tmp_path / "pictures" / "notes.txt").write_text("not an image")
    return tmp_path / "pictures"


def run_cli(capsys, *args):
    capsys.readouterr()
    status = main([str(arg) for arg in args])
    return status, *capsys.readouterr()


def expected(weights, files):
    """Straight through the source library's network."""
    from transformers import ViTForImageClassification

    theirs = ViTForImageClassification.from_pretrained(weights, config=foreign.huggingface().config).float().eval()
    images = torch.stack([tv.to_dtype(tv.pil_to_tensor(Image.open(f).convert("RGB")), scale=True) for f in files])
    images = tv.normalize(images, PIXELS["image_mean"], PIXELS["image_std"])
    return foreign.logits(theirs, images).softmax(-1)


def test_json_has_the_probabilities_of_the_source_library(weights, pictures, capsys):
    status, out, _ = run_cli(capsys, "predict", "--ckpt", weights, pictures, "--json", "--top", 3)
    found = json.loads(out)
    files = sorted(p for p in pictures.rglob("*") if p.suffix in (".png", ".bmp"))
    assert status == 0 and [entry["image"] for entry in found] == list(map(str, files)) and len(files) == 70
    for entry, probabilities in zip(found, expected(weights, files), strict=True):
        values, order = probabilities.sort(descending=True)
        assert [each["label"] for each in entry["top"]] == [("cat", "dog", "owl")[i] for i in order]
        assert [each["probability"] for each in entry["top"]] == pytest.approx(values.tolist(), abs=1e-5)


def test_the_table_names_files_and_at_most_all_labels(weights, pictures, capsys, monkeypatch):
    monkeypatch.chdir(pictures)
    status, out, _ = run_cli(capsys, "predict", "--ckpt", weights / "model.safetensors", "1/01.png")
    header, row, summary = [line for line in out.splitlines() if "image" in line or "01.png" in line]
    assert summary == f"1 image: {('cat', 'dog', 'owl')[expected(weights, [Path('1/01.png')])[0].argmax()]} (1)"
    assert str(weights) not in out
    (probabilities,) = expected(weights, [pictures / "1" / "01.png"])
    values, order = probabilities.sort(descending=True)
    assert status == 0 and header.split() == ["┃", "image", "┃", "1", "┃", "2", "┃", "3", "┃"]
    cells = [f"{('cat', 'dog', 'owl')[i]} {value:.1%}" for i, value in zip(order, values, strict=True)]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["1/01.png", *cells]


def test_a_run_of_ours_sees_grey_images_as_in_training(make_run, pictures, capsys):
    from vitbn.training.outcome import attempt
    from vitbn.training.train import train

    run = make_run("epochs=1", "data.mean=0.3", "data.std=0.2")
    attempt(run, train)
    split = load("fashion_mnist", Path(run.config["data"]["root"])).test
    files = []
    for number in range(3):
        files.append(pictures / f"{number}.png")
        Image.fromarray(split.images[number, 0].numpy()).save(files[-1])
    network = load_network(run.folder)
    with torch.no_grad():
        logits = network.net((split.images[:3] / 255 - 0.3) / 0.2)
    found = predict_files(network, files, 10, on_error=None, read=as_it_is(network))
    for (_, prediction), probabilities in zip(found, logits.softmax(-1), strict=True):
        assert dict(prediction) == pytest.approx(
            dict(zip(network.labels, probabilities.tolist(), strict=True)), abs=1e-6
        )
    status, out, _ = run_cli(capsys, "predict", "--ckpt", run.checkpoints / "best.ckpt", *files, "--json")
    assert status == 0 and [len(entry["top"]) for entry in json.loads(out)] == [5, 5, 5]


def test_csv_has_a_row_per_label(weights, pictures, capsys):
    status, out, _ = run_cli(capsys, "predict", "--ckpt", weights, pictures / "1" / "01.png", "--csv", "--top", 2)
    (probabilities,) = expected(weights, [pictures / "1" / "01.png"])
    values, order = probabilities.sort(descending=True)
    rows = [line.split(",") for line in out.splitlines()]
    assert status == 0 and rows[0] == ["image", "rank", "label", "probability"] and len(rows) == 3
    for rank, (file, *rest) in enumerate(rows[1:]):
        assert file == str(pictures / "1" / "01.png") and rest[:2] == [
            str(rank + 1),
            ("cat", "dog", "owl")[order[rank]],
        ]
        assert float(rest[2]) == pytest.approx(values[rank].item(), abs=1e-5)


def test_digits_are_prepared_as_the_page_prepares_them(tmp_path, capsys):
    source = load("mnist5k", tmp_path).test
    rows = [int((source.labels == digit).nonzero()[0]) for digit in range(10)]
    for digit, row in enumerate(rows):
        pixels = source.images[row, 0].numpy()
        (tmp_path / "mnist").mkdir(exist_ok=True)
        (tmp_path / "paper").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "mnist" / f"{digit}.png")
        Image.fromarray(255 - pixels).resize((112, 112)).save(tmp_path / "paper" / f"{digit}.png")
    for folder, words in (("mnist", ""), ("paper", "10 of 10 pictures prepared as vitbn serve does")):
        status, out, err = run_cli(capsys, "predict", "--ckpt", packaged_weights(), tmp_path / folder, "--json")
        assert status == 0 and err.startswith(words) and bool(err) == bool(words)
        right = [entry["top"][0]["label"] == Path(entry["image"]).stem for entry in json.loads(out)]
        assert sum(right) >= 9
    Image.new("L", (50, 50), 255).save(tmp_path / "paper" / "blank.png")
    status, out, err = run_cli(capsys, "predict", "--ckpt", packaged_weights(), tmp_path / "paper" / "blank.png")
    assert status == 2 and "blank.png: there is no digit" in err


def test_bad_input_is_one_line_on_stderr(weights, pictures, tmp_path, capsys, monkeypatch):
    def refused(words, *args):
        status, out, err = run_cli(capsys, "predict", *args)
        assert status == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err

    image = pictures / "1" / "01.png"
    refused("nowhere: does not exist", "--ckpt", tmp_path / "nowhere", image)
    refused("gone.png: does not exist", "--ckpt", weights, pictures / "gone.png")
    refused("notes.txt: cannot be read as an image", "--ckpt", weights, pictures / "notes.txt")
    (tmp_path / "empty").mkdir()
    refused("empty: a folder without images", "--ckpt", weights, tmp_path / "empty")
    refused("--top 0: must be at least 1", "--ckpt", weights, image, "--top", 0)
    monkeypatch.setattr("vitbn.data.decode.MAX_PIXELS", 28 * 28 - 1)
    refused("01.png: too large", "--ckpt", weights, image)
    assert MAX_PIXELS > 10**7


def test_what_cannot_be_read_is_named_and_the_others_are_predicted(weights, pictures, capsys):
    damaged, strange = pictures / "0" / "00.bmp", pictures / "0" / "[red]\udcff.png"
    damaged.write_bytes(b"BM")
    (pictures / "0" / "02.png").rename(strange)
    status, out, err = run_cli(capsys, "predict", "--ckpt", weights, pictures, "--json")
    named = [entry["image"] for entry in json.loads(out)]
    assert status == 2 and len(named) == 69 and str(damaged) not in named and str(strange) in named
    assert err.startswith(f"error: {damaged}: cannot be read as an image") and err.count("\n") == 1
    status, out, _ = run_cli(capsys, "predict", "--ckpt", weights, strange)
    assert status == 0 and "[red]" in out.replace("\n", "")


@pytest.mark.slow
def test_neither_hydra_nor_lightning_is_imported(weights, pictures):
    script = (
        "import sys\n"
        # importing these fails
        "sys.modules.update(dict.fromkeys(('hydra', 'omegaconf', 'pytorch_lightning', 'torchmetrics')))\n"
        f"from vitbn.cli import main; sys.exit(main(['predict', '--ckpt', {str(weights)!r}, {str(pictures / '0')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_wide_labels_leave_the_table_its_files_and_numbers(weights, pictures, capsys, monkeypatch):
    monkeypatch.chdir(pictures)
    monkeypatch.setenv("COLUMNS", "30")
    _, out, _ = run_cli(capsys, "predict", "--ckpt", weights / "model.safetensors", "1/01.png")
    columns = zip(*[line.split("│")[1:-1] for line in out.splitlines() if "│" in line], strict=True)
    file, *cells = ["".join(map(str.strip, column)) for column in columns]
    assert file == "1/01.png" and all(cell.endswith("%") for cell in cells)
