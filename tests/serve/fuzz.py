"""Bodies that no honest client sends: image files of many formats, damaged, and plain noise; always the same ones."""

import io
from collections.abc import Iterator

import torch
from PIL import Image, ImageDraw

from vitbn.rng import generator

FORMATS = ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm", "ico", "tga", "jpeg2000", "pcx", "dds", "sgi", "eps")
MODES = {"jpeg": ("L", "RGB", "CMYK"), "gif": ("P", "L"), "tiff": ("L", "RGB", "RGBA", "1", "I;16", "CMYK"),
         "png": ("L", "LA", "RGB", "RGBA", "P", "1", "I;16")}  # fmt: skip


def bodies(count: int, seed: int = 0) -> Iterator[bytes]:
    """So many bodies."""
    for number in range(count):
        draw = Draw(generator("fuzz", seed, number))
        body = bytearray(draw.bytes(draw.below(3000)) if draw.below(8) == 0 else honest(draw))
        for _ in range(draw.below(4)):
            damage(body, draw)
        yield bytes(body)


class Draw:
    """Numbers from one generator."""

    def __init__(self, source: torch.Generator) -> None:
        self.source = source

    def below(self, limit: int) -> int:
        return int(torch.randint(0, limit, (), generator=self.source))

    def bytes(self, count: int) -> bytes:
        return torch.randint(0, 256, (count,), generator=self.source).to(torch.uint8).numpy().tobytes()

    def choice(self, choices: tuple) -> str:
        return choices[self.below(len(choices))]


def honest(draw: Draw) -> bytes:
    """An image file with a line in it."""
    form = draw.choice(FORMATS)
    mode = draw.choice(MODES.get(form, ("L", "RGB")))
    picture = Image.new("L", (1 + draw.below(120), 1 + draw.below(120)), 255)
    ends = [(draw.below(picture.width), draw.below(picture.height)) for _ in range(3)]
    ImageDraw.Draw(picture).line(ends, fill=draw.below(256), width=1 + draw.below(9))
    content = io.BytesIO()
    picture.convert(mode).save(content, form)
    return content.getvalue()


def damage(body: bytearray, draw: Draw) -> None:
    """One of: bytes changed, cut off, cut out, put in, one repeated; mostly in the headers."""
    length = len(body)
    at = draw.below(max(1, min(length, 64) if draw.below(2) else length))
    kind = draw.below(5)
    if kind == 0:
        for _ in range(1 + draw.below(8)):
            body[at : at + 1] = draw.bytes(1)
            at = draw.below(max(1, length))
    elif kind == 1:
        del body[at:]
    elif kind == 2:
        del body[at : at + 1 + draw.below(16)]
    elif kind == 3:
        body[at:at] = draw.bytes(1 + draw.below(16))
    else:
        body[at : at + 4] = b"\xff" * 4
