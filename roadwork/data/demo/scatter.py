"""Places in a city: far enough apart to be split, but for some that are a second drive through a neighbourhood."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

APART_M = 1200.0  # more than data.splitting.buffer_km, with room for the metres driven and for the flat map
RADIUS_M = 22_000.0
REVISITED_SHARE = 1 / 8
REVISIT_M = (100.0, 800.0)


def scatter(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 2) metres north and east of a city's centre, in random order.

    One place in eight lies 100 to 800 m from another one, and 1.2 km or more from all the rest; all others lie 1.2 km
    or more apart. They fill a disc of ``radius_m(count)`` evenly.
    """
    disc = _Disc(radius_m(count))
    revisits = round(REVISITED_SHARE * count)
    while len(disc.points) < count - revisits:
        point = _step(disc.radius * math.sqrt(rng.random()), rng)
        if not disc.near(point):
            disc.add(point)
    while len(disc.points) < count:
        visited = int(rng.integers(len(disc.points)))
        point = _step(rng.uniform(*REVISIT_M), rng, start=disc.points[visited])
        if disc.near(point) == [visited] and math.hypot(*point) < disc.radius:
            disc.add(point)
    return rng.permutation(np.array(disc.points).reshape(count, 2))


def radius_m(count: int) -> float:
    """How far from the centre places may lie: 22 km, and farther for more than 336.

    Half of ``APART_M`` around each place then covers a quarter of the disc at most. Points that are drawn at random
    and kept where they fit get stuck at 0.547 (Feder, 1980); at a quarter about every fourth still fits.
    """
    return max(RADIUS_M, APART_M * math.sqrt(count))


class _Disc:
    """Points by squares of ``APART_M``: whatever is nearer than that lies in the nine squares around a point."""

    def __init__(self, radius: float) -> None:
        self.radius = radius
        self.points: list[tuple[float, float]] = []
        self._squares: dict[tuple[int, int], list[int]] = defaultdict(list)

    def add(self, point: tuple[float, float]) -> None:
        self._squares[_square(point)].append(len(self.points))
        self.points.append(point)

    def near(self, point: tuple[float, float]) -> list[int]:
        """Numbers of the points nearer than ``APART_M``."""
        row, column = _square(point)
        squares = [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        return [
            number
            for square in squares
            for number in self._squares.get(square, ())
            if math.dist(point, self.points[number]) < APART_M
        ]


def _square(point: tuple[float, float]) -> tuple[int, int]:
    return math.floor(point[0] / APART_M), math.floor(point[1] / APART_M)


def _step(distance: float, rng: np.random.Generator, start: tuple[float, float] = (0.0, 0.0)) -> tuple[float, float]:
    """The point at this distance from the start, in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    return start[0] + distance * math.cos(angle), start[1] + distance * math.sin(angle)
