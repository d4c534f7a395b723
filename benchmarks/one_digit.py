"""Trains the small network of `vitbn serve` that tells one digit from several that touch: serve/one_digit.npz.

python benchmarks/one_digit.py          # about 8 minutes on one core; needs the MNIST files
Its training images are MNIST's: one, or two moved together until they touch, or one on a line.
"""

import argparse
import os
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import grey_dilation, grey_erosion
from torch import nn

from vitbn.data.sources import load
from vitbn.serve.one_digit import FILE
from vitbn.serve.preprocess import fit_digit

Ink = NDArray[np.float32]  # (H, W) in [0, 1]
SIDE = 84  # of a digit's image here: three pixels for one of MNIST's
INKED = 0.3
WITHOUT_DIGITS = ("STIXNon", "STIXSiz", "cmex", "cmsy", "cmmi", "DejaVuSansDisplay", "DejaVuSerifDisplay", "LastResort")


def printed() -> NDArray[np.uint8]:
    """The ten digits in matplotlib's fonts, (N, SIDE, SIDE); some are kept for tests."""
    images = []
    for path in sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("*.ttf")):
        if not path.name.startswith(("DejaVuSans.", "DejaVuSans-", *WITHOUT_DIGITS)):
            font = ImageFont.truetype(str(path), SIDE * 0.75)
            for digit in "0123456789":
                image = Image.new("L", (SIDE, SIDE))
                ImageDraw.Draw(image).text((SIDE / 2, SIDE / 2), digit, font=font, fill=255, anchor="mm")
                images.append(np.asarray(image))
    return np.stack(images)


def drawn(image: NDArray[np.uint8], rng: np.random.Generator) -> Ink:
    """A digit of another size, slant, width and pen, cropped."""
    if rng.random() < 0.1:
        image = PRINTED[rng.integers(len(PRINTED))]
    wide, slant, turn = rng.uniform(0.75, 1.33), rng.uniform(-0.25, 0.25), rng.uniform(-0.2, 0.2)
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    matrix = turned @ np.array([[wide, slant], [0, 1]]) * rng.uniform(0.9, 1.2)
    centre = np.full(2, SIDE / 2)
    shift = centre - matrix @ centre
    large = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    moved = large.transform(
        (SIDE, SIDE), Image.Transform.AFFINE, (*matrix[0], shift[0], *matrix[1], shift[1]), Image.Resampling.BILINEAR
    )
    ink = np.asarray(moved, np.float32) / 255
    pen = rng.integers(8)
    ink = grey_dilation(ink, size=int(2 * pen + 3)) if pen < 3 else grey_erosion(ink, size=3) if pen == 3 else ink
    rows, columns = np.flatnonzero((ink > INKED).any(1)), np.flatnonzero((ink > INKED).any(0))
    if len(rows) < SIDE / 5:  # too thin a pen, or out of the picture
        return drawn(image, rng)
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


PRINTED = printed()


def joined(left: Ink, right: Ink, closer: int, rng: np.random.Generator) -> Ink:
    """The two side by side, moved together until they touch and then by some pixels more."""
    height = max(len(left), len(right))
    one, other = (_at_height(ink, height, rng) for ink in (left, right))
    reach = np.where((one > INKED).any(1), (one > INKED)[:, ::-1].argmax(1), 10 * SIDE)
    gap = reach + np.where((other > INKED).any(1), (other > INKED).argmax(1), 10 * SIDE)
    overlap = int(min(gap.min() + closer, 0.8 * min(one.shape[1], other.shape[1])))
    result = np.zeros((height, one.shape[1] + other.shape[1] - max(overlap, 0)), np.float32)
    result[:, : one.shape[1]] = one
    np.maximum(result[:, -other.shape[1] :], other, out=result[:, -other.shape[1] :])
    return result


def _at_height(ink: Ink, height: int, rng: np.random.Generator) -> Ink:
    result = np.zeros((height, ink.shape[1]), np.float32)
    top = int(rng.integers(0, height - len(ink) + 1))
    result[top : top + len(ink)] = ink
    return result


def several(images: NDArray[np.uint8], rng: np.random.Generator) -> Ink:
    """Two digits beside or below each other, or one on or beside a line."""
    one, other = (drawn(images[rng.integers(len(images))], rng) for _ in range(2))
    closer, kind = int(rng.integers(-2, 11)), rng.random()
    if kind < 0.7:
        return joined(one, other, closer, rng)
    if kind < 0.78:
        return joined(one.T, other.T, closer, rng).T
    length = int(rng.uniform(0.9, 2.5) * max(one.shape))
    bar = np.full((length, int(rng.integers(3, 9))), rng.uniform(0.7, 1), np.float32)
    upright = kind < 0.86
    if upright and length < 1.4 * len(one):  # a short one may be a 1
        bar = np.full((int(1.5 * len(one)), bar.shape[1]), 1, np.float32)
    sides = (one if upright else one.T, bar)
    result = joined(*(sides if rng.random() < 0.5 else sides[::-1]), min(closer, bar.shape[1]), rng)
    return result if upright else result.T


def images_of(source: NDArray[np.uint8], count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 1, 28, 28) in [0, 1] as `vitbn serve` sees them, and whether they show several; half of them do."""
    inks = [several(source, rng) if row % 2 else drawn(source[rng.integers(len(source))], rng) for row in range(count)]
    seen = torch.from_numpy(np.stack([fit_digit(ink) for ink in inks]))[:, None].float() / 255
    return seen, torch.arange(count) % 2


def main() -> None:
    """Train, measure on held-out digits, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="training images")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    digits = load("mnist", Path(os.environ.get("VITBN_DATA", "data"))).train.images[:, 0].numpy()
    rng = np.random.default_rng(0)
    images, answers = images_of(digits[:55_000], args.count, rng)
    held_out, held_answers = images_of(digits[55_000:], 10_000, rng)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 12, 5, 2, 2), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 24, 3, 2, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(24 * 16, 1),
    )  # fmt: skip
    batch, steps = 128, args.count // 128
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=args.epochs * steps)
    for epoch in range(args.epochs):
        total = 0.0
        for rows in torch.randperm(args.count)[: steps * batch].split(batch):
            logits = net(images[rows])[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(logits, answers[rows].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() / steps
        with torch.no_grad():
            logits = net(held_out)[:, 0]
        refused = [
            (logits[held_answers == several] > threshold).float().mean()
            for threshold in (1, 2, 3, 4)
            for several in (0, 1)
        ]
        print(epoch + 1, f"{total:.4f}", " ".join(f"{share:.2%}" for share in refused), flush=True)
    np.savez_compressed(args.out, **{name: value.half().numpy() for name, value in net.state_dict().items()})


if __name__ == "__main__":
    main()
