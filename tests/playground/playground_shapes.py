"""Fourteen digits as lines, as somebody draws them, and nine ways of drawing each."""

import math
import random

ARC = [(math.cos(k * math.pi / 8), math.sin(k * math.pi / 8)) for k in range(17)]  # a circle


def ellipse(x, y, width, height, start=0, count=17, turn=1):
    """Points on an ellipse around (x, y), from a sixteenth of the circle on; turn: 1 or -1, its direction."""
    points = [ARC[(start + turn * k) % 16] for k in range(count)]
    return [(x + width * cos, y + height * sin) for cos, sin in points]


SHAPES = [  # (digit, strokes), each a list of points in a square of side 1
    (0, [ellipse(0.5, 0.5, 0.25, 0.38, start=12, turn=-1)]),
    (1, [[(0.5, 0.12), (0.5, 0.88)]]),
    (1, [[(0.36, 0.3), (0.52, 0.12), (0.5, 0.88)]]),
    (2, [[*ellipse(0.5, 0.32, 0.22, 0.2, start=9, count=9), (0.6, 0.55), (0.3, 0.85), (0.74, 0.85)]]),
    (2, [[(0.3, 0.25), (0.5, 0.12), (0.7, 0.28), (0.6, 0.5), (0.28, 0.84), (0.42, 0.76), (0.75, 0.86)]]),
    (3, [[*ellipse(0.48, 0.31, 0.2, 0.19, start=10, count=10), *ellipse(0.48, 0.69, 0.24, 0.2, start=12, count=10)]]),
    (4, [[(0.36, 0.12), (0.26, 0.52), (0.74, 0.52)], [(0.66, 0.14), (0.6, 0.9)]]),
    (4, [[(0.62, 0.88), (0.62, 0.12), (0.24, 0.6), (0.8, 0.6)]]),
    (5, [[(0.68, 0.14), (0.36, 0.14), (0.33, 0.46), *ellipse(0.47, 0.64, 0.22, 0.22, start=11, count=11)]]),
    (6, [[(0.62, 0.12), (0.42, 0.32), (0.32, 0.6), *ellipse(0.5, 0.68, 0.18, 0.19, start=8, turn=-1)]]),
    (7, [[(0.26, 0.16), (0.74, 0.16), (0.58, 0.5), (0.44, 0.88)]]),
    (7, [[(0.26, 0.16), (0.74, 0.16), (0.44, 0.88)], [(0.38, 0.5), (0.7, 0.48)]]),
    (8, [[*ellipse(0.5, 0.3, 0.18, 0.18, start=4, turn=-1), *ellipse(0.5, 0.68, 0.22, 0.2, start=12)]]),
    (9, [[*ellipse(0.48, 0.32, 0.18, 0.2, start=15, turn=-1), (0.66, 0.3), (0.62, 0.6), (0.54, 0.9)]]),
]


def scaled(points, width, height, x=0.5, y=0.5):
    """Points in a frame of that size around (x, y)."""
    return [(x + width * (u - 0.5), y + height * (v - 0.5)) for u, v in points]


def wobbly(points):
    """A line with a trembling hand."""
    noise = random.Random(0)
    return [(u + noise.gauss(0, 0.012), v + noise.gauss(0, 0.012)) for u, v in dense(points)]


def dense(points):
    """More points on the same line."""
    line = []
    for (u, v), (s, t) in zip(points, points[1:], strict=False):
        line += [(u + k / 4 * (s - u), v + k / 4 * (t - v)) for k in range(4)]
    return [*line, points[-1]]


VARIANTS = {
    "plain": lambda points: points,
    "off-centre": lambda points: scaled(points, 0.5, 0.5, 0.28, 0.7),
    "huge": lambda points: scaled(points, 1.25, 1.2),
    "tiny": lambda points: scaled(points, 0.16, 0.16, 0.6, 0.4),
    "narrow": lambda points: scaled(points, 0.6, 1),
    "wide": lambda points: scaled(points, 1.5, 0.85),
    "wobbly": wobbly,
    "slanted to the right": lambda points: [(u + 0.35 * (0.5 - v), v) for u, v in points],
    "slanted to the left": lambda points: [(u - 0.25 * (0.5 - v), v) for u, v in points],
}
