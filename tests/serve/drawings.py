"""Pictures of single strokes."""

import io

from PIL import Image, ImageDraw

SHEET = 560  # pixels
SEVEN = ((150, 120), (350, 120), (220, 400))


def encoded(pixels, form="png", **options):
    content = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(content, form, **options)
    return content.getvalue()


def line(*points, width=40, side=SHEET, ink=0, ground=255, mode="L"):
    """A picture of a stroke with round ends."""
    picture = Image.new(mode, (side, side), ground)
    draw = ImageDraw.Draw(picture)
    draw.line(points, fill=ink, width=width, joint="curve")
    for x, y in points:
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=ink)
    return picture
