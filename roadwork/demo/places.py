"""Places and times of the demo data's sequences."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from roadwork.demo.cities import CITIES, City, Look
from roadwork.demo.light import CONDITIONS

APART_M = 1200.0  # above data.splitting.buffer_km, with a margin for the distance driven and the flat map
RADIUS_M = 22_000.0
REVISITED_SHARE = 1 / 8
REVISIT_M = (100.0, 800.0)
FRAMES = 4  # images in a sequence
DEPLOYMENT_POINTS = 200
METRES_PER_DEGREE = 111_320.0
GPS_NOTATIONS = (
    "({lat:.6f}, {lon:.6f})",
    "{lat:.6f}, {lon:.6f}",
    "[{lat:.6f}, {lon:.6f}]",
    "{lat:.6f} {lon:.6f}",
    "{north:.6f}° {ns}, {east:.6f}° {ew}",
    "POINT ({lon:.6f} {lat:.6f})",
)


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """The random generator for a purpose and, optionally, numbered items of it.

    The purpose comes first because numpy ignores trailing zeros: (0, 0) would equal a user's generator of seed 0.
    """
    return np.random.default_rng((int.from_bytes(purpose.encode()), seed, *numbers))


def scatter(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 2) places in metres north and east of a city's centre, in random order.

    One place in eight is 100 to 800 m from another one, and at least 1.2 km from the rest; all others are at least
    1.2 km apart. They fill a disc of ``radius_m(count)`` evenly.
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
    """Radius of the disc of places: 22 km, or more for over 336 places.

    Discs of radius ``APART_M / 2`` around the places then cover at most a quarter of the area. Random sequential
    placement saturates at 0.547 (Feder, 1980); at a quarter, about one candidate in four still fits.
    """
    return max(RADIUS_M, APART_M * math.sqrt(count))


class _Disc:
    """Points in a grid of ``APART_M`` squares: all points within that distance are in the nine surrounding squares."""

    def __init__(self, radius: float) -> None:
        self.radius = radius
        self.points: list[tuple[float, float]] = []
        self._squares: dict[tuple[int, int], list[int]] = defaultdict(list)

    def add(self, point: tuple[float, float]) -> None:
        self._squares[_square(point)].append(len(self.points))
        self.points.append(point)

    def near(self, point: tuple[float, float]) -> list[int]:
        """Indices of the points closer than ``APART_M``."""
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
    """A point at this distance from the start in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    return start[0] + distance * math.cos(angle), start[1] + distance * math.sin(angle)


@dataclass(frozen=True)
class Sequence:
    """A sequence of images from one place.

    Attributes:
        index: index over all cities; with the seed it determines the images.
        name: such as ``berlin-0012``; independent of the label.
        city: city of the place.
        look: look of the street: the city's own, or possibly another city's if ``geo_shift`` is below 1.
        label: 0 for None, 1 for Roadwork.
        frames: number of images.
        latitude: latitude of the first image in degrees.
        longitude: longitude of the first image in degrees.
        heading: driving direction in radians, clockwise from north.
        step_m: metres driven between images.
        gps_form: ``columns``, ``text`` or ``none``.
        notation: format of a position given as text.
        start: time of the first image.
        condition: weather and time of day.
    """

    index: int
    name: str
    city: City
    look: Look
    label: int
    frames: int
    latitude: float
    longitude: float
    heading: float
    step_m: float
    gps_form: str
    notation: str
    start: datetime
    condition: tuple[str, str]

    def position(self, frame: int) -> tuple[float, float]:
        """Latitude and longitude of an image, in degrees to 6 decimals (0.1 m)."""
        metres = frame * self.step_m
        north, east = metres * np.cos(self.heading), metres * np.sin(self.heading)
        latitude = self.latitude + north / METRES_PER_DEGREE
        longitude = self.longitude + east / (METRES_PER_DEGREE * np.cos(np.radians(self.latitude)))
        return round(float(latitude), 6), round(float(longitude), 6)

    def gps_text(self, frame: int) -> str:
        """The position of an image as text, in the sequence's notation."""
        lat, lon = self.position(frame)
        return self.notation.format(
            lat=lat, lon=lon, north=abs(lat), east=abs(lon), ns="N" if lat >= 0 else "S", ew="E" if lon >= 0 else "W"
        )

    def time(self, frame: int) -> datetime:
        return self.start + timedelta(seconds=frame)


def plan_sequences(images: int, seed: int, geo_shift: float = 1.0, cities: tuple[City, ...] = CITIES) -> list[Sequence]:
    """All sequences of a dataset, in order; half of each city's sequences show roadwork.

    ``geo_shift`` is the probability, 0 to 1, that a sequence has its own city's look. Nothing else depends on it, and
    sequences with their own look keep it at any higher ``geo_shift``.
    """
    total = -(-images // FRAMES)
    rng = stream(seed, "gps")
    forms = np.full(total, "columns", dtype="<U7")
    order = rng.permutation(total)
    without, as_text = round(0.1 * total), round(0.1 * total)
    forms[order[:without]] = "none"
    forms[order[without : without + as_text]] = "text"

    is_own, borrowed = _draw_looks(total, geo_shift, seed, cities)
    sequences: list[Sequence] = []
    for number, (city, count) in enumerate(zip(cities, _city_counts(total, cities), strict=True)):
        rng = stream(seed, "city", number)
        labels = rng.permutation((np.arange(count) + len(sequences)) % 2)
        places = _scatter(city, count, rng)
        for i in range(count):
            index = len(sequences)
            condition = tuple(CONDITIONS)[int(rng.choice(len(CONDITIONS), p=list(CONDITIONS.values())))]
            sequences.append(
                Sequence(
                    index=index,
                    name=f"{city.slug}-{i:04d}",
                    city=city,
                    look=city.look if is_own[index] else borrowed[index],
                    label=int(labels[i]),
                    frames=FRAMES if index < total - 1 else images - FRAMES * (total - 1),
                    latitude=places[i, 0],
                    longitude=places[i, 1],
                    heading=rng.uniform(0, 2 * np.pi),
                    step_m=rng.uniform(1.0, 1.8),
                    gps_form=str(forms[index]),
                    notation=str(rng.choice(GPS_NOTATIONS)),
                    start=_draw_time(city, condition[1], rng),
                    condition=condition,
                )
            )
    return sequences


def deployment_points(seed: int, cities: tuple[City, ...] = CITIES) -> np.ndarray:
    """(M, 2) latitude and longitude in degrees of the deployment points."""
    chosen = [city for city in cities if city.is_deployment]
    counts = [len(part) for part in np.array_split(np.arange(DEPLOYMENT_POINTS), len(chosen))]
    points = [
        _scatter(city, count, stream(seed, "deployment", number))
        for number, (city, count) in enumerate(zip(chosen, counts, strict=True))
    ]
    return np.concatenate(points).round(6)


def _city_counts(total: int, cities: tuple[City, ...]) -> list[int]:
    """Number of sequences per city, by the largest-remainder method."""
    exact = np.array([city.share for city in cities]) * total
    counts = np.floor(exact).astype(int)
    largest = np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]
    counts[largest] += 1
    return [int(count) for count in counts]


def _draw_looks(total: int, geo_shift: float, seed: int, cities: tuple[City, ...]) -> tuple[np.ndarray, list[Look]]:
    """Whether each sequence keeps its city's look, and the look that it would use instead.

    Looks are drawn by the cities' shares, so each look is equally frequent at any ``geo_shift``.
    """
    rng = stream(seed, "look")
    is_own = rng.random(total) < geo_shift
    lenders = rng.choice(len(cities), total, p=[city.share for city in cities])
    return is_own, [cities[lender].look for lender in lenders]


def _scatter(city: City, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 2) latitude and longitude in degrees around a city's centre."""
    per_degree = METRES_PER_DEGREE * np.array([1.0, np.cos(np.radians(city.latitude))])
    return np.array([city.latitude, city.longitude]) + scatter(count, rng) / per_degree


def _draw_time(city: City, time_of_day: str, rng: np.random.Generator) -> datetime:
    """A time in UTC at which the local time of day matches the image."""
    hour = rng.uniform(18.0, 20.5) if time_of_day == "dusk" else rng.uniform(8.5, 16.5)
    day = datetime(2024, 4, 1, tzinfo=UTC) + timedelta(days=int(rng.integers(0, 540)))
    return (day + timedelta(hours=hour - city.longitude / 15)).replace(microsecond=0)
