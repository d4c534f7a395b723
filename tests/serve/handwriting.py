"""Ten digits as a hand writes them: what the browser test draws on the page."""

from dataclasses import dataclass

Point = tuple[float, float]
Stroke = list[Point]

# The points a pen passes, in a box of height 1 with y downwards; a curve through them is the stroke.
DIGITS: dict[int, list[Stroke]] = {
    0: [[(0.52, 0.02), (0.28, 0.06), (0.08, 0.32), (0.05, 0.64), (0.20, 0.93), (0.43, 0.97), (0.66, 0.78),
         (0.71, 0.44), (0.62, 0.13), (0.45, 0.01)]],
    1: [[(0.30, 0.00), (0.27, 0.30), (0.23, 0.65), (0.20, 1.00)]],
    2: [[(0.07, 0.24), (0.18, 0.06), (0.42, 0.00), (0.61, 0.14), (0.57, 0.40), (0.34, 0.70), (0.06, 0.95),
         (0.20, 0.93), (0.44, 0.96), (0.72, 0.95)]],
    3: [[(0.08, 0.11), (0.32, 0.00), (0.57, 0.12), (0.52, 0.35), (0.26, 0.46), (0.55, 0.56), (0.64, 0.79),
         (0.44, 0.98), (0.19, 0.97), (0.04, 0.86)]],
    4: [[(0.16, 0.02), (0.11, 0.28), (0.06, 0.53), (0.32, 0.56), (0.70, 0.51)],
        [(0.60, 0.05), (0.57, 0.35), (0.54, 0.70), (0.52, 1.00)]],
    5: [[(0.20, 0.05), (0.17, 0.24), (0.14, 0.43), (0.38, 0.39), (0.60, 0.52), (0.62, 0.76), (0.42, 0.96),
         (0.08, 0.95)],
        [(0.20, 0.05), (0.42, 0.04), (0.66, 0.01)]],
    6: [[(0.50, 0.00), (0.29, 0.18), (0.13, 0.47), (0.09, 0.75), (0.24, 0.97), (0.48, 0.95), (0.60, 0.75),
         (0.48, 0.57), (0.27, 0.60), (0.12, 0.78)]],
    7: [[(0.04, 0.07), (0.35, 0.05), (0.68, 0.04), (0.54, 0.34), (0.40, 0.66), (0.31, 1.00)]],
    8: [[(0.58, 0.11), (0.38, 0.00), (0.16, 0.09), (0.16, 0.28), (0.37, 0.46), (0.58, 0.68), (0.54, 0.92),
         (0.31, 1.00), (0.09, 0.86), (0.17, 0.63), (0.41, 0.44), (0.60, 0.25), (0.57, 0.09)]],
    9: [[(0.58, 0.14), (0.38, 0.01), (0.13, 0.14), (0.10, 0.36), (0.29, 0.48), (0.52, 0.36), (0.60, 0.10),
         (0.59, 0.40), (0.55, 0.70), (0.51, 1.00)]],
}  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """A digit of `height`, its box's corner at (left, top), in fractions of the sheet, with one of the page's pens."""

    digit: int
    pen: str
    pointer: str  # mouse, touch or pen
    height: float
    left: float
    top: float

    def strokes(self) -> list[Stroke]:
        """Points on the sheet, 0 to 1 from its upper left corner."""
        return [
            [(self.left + self.height * x, self.top + self.height * y) for x, y in curve(points)]
            for points in DIGITS[self.digit]
        ]


# Every pen and every pointer; in the middle, in corners and at edges; from a third to nine tenths of the sheet
DRAWINGS = (
    Drawing(0, "medium", "mouse", 0.60, 0.25, 0.20),
    Drawing(1, "thick", "touch", 0.70, 0.10, 0.20),
    Drawing(2, "thin", "mouse", 0.55, 0.55, 0.05),
    Drawing(3, "medium", "pen", 0.45, 0.05, 0.50),
    Drawing(4, "thick", "mouse", 0.75, 0.20, 0.10),
    Drawing(5, "medium", "touch", 0.50, 0.60, 0.45),
    Drawing(6, "thin", "pen", 0.35, 0.08, 0.08),
    Drawing(7, "medium", "mouse", 0.65, 0.30, 0.30),
    Drawing(8, "thick", "pen", 0.80, 0.22, 0.10),
    Drawing(9, "thin", "touch", 0.88, 0.20, 0.06),
)  # fmt: skip


def curve(points: Stroke, steps: int = 3) -> Stroke:
    """The Catmull-Rom spline through the points (Catmull and Rom, 1974), `steps` to each."""
    padded = [points[0], *points, points[-1]]
    drawn = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for t in (step / steps for step in range(steps)):
            drawn.append(tuple(
                0.5 * (2 * q + (r - p) * t + (2 * p - 5 * q + 4 * r - s) * t**2 + (3 * q - p - 3 * r + s) * t**3)
                for p, q, r, s in zip(a, b, c, d, strict=True)
            ))  # fmt: skip
    return [*drawn, points[-1]]
