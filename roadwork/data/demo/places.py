"""Where and when the demo scenes are taken: short sequences in real cities, and the deployment's points."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from roadwork.data.demo.light import CONDITIONS
from roadwork.data.demo.regions import CITIES, City, Look
from roadwork.data.demo.scatter import scatter
from roadwork.data.demo.streams import stream

FRAMES = 4  # pictures in a sequence
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


@dataclass(frozen=True)
class Sequence:
    """One place, filmed once.

    Attributes:
        index: number over all cities; with the seed it fixes everything random in the pictures.
        name: as in ``berlin-0012``; says nothing of the label.
        city: where it is.
        look: what the street looks like: its city's look, or another's where ``geo_shift`` is below 1.
        label: 0 for None, 1 for Roadwork.
        frames: number of pictures, in order of time.
        latitude: of the first picture, in degrees.
        longitude: of the first picture, in degrees.
        heading: in radians, clockwise from north.
        step_m: metres driven from one picture to the next.
        gps_form: ``columns``, ``text`` or ``none``.
        notation: format of the position where it is given as text.
        start: time of the first picture.
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
        """Latitude and longitude of one picture, in degrees to 6 decimals (0.1 m)."""
        metres = frame * self.step_m
        north, east = metres * np.cos(self.heading), metres * np.sin(self.heading)
        latitude = self.latitude + north / METRES_PER_DEGREE
        longitude = self.longitude + east / (METRES_PER_DEGREE * np.cos(np.radians(self.latitude)))
        return round(float(latitude), 6), round(float(longitude), 6)

    def gps_text(self, frame: int) -> str:
        """The position of one picture, as people and tools write it."""
        lat, lon = self.position(frame)
        return self.notation.format(
            lat=lat, lon=lon, north=abs(lat), east=abs(lon), ns="N" if lat >= 0 else "S", ew="E" if lon >= 0 else "W"
        )

    def time(self, frame: int) -> datetime:
        return self.start + timedelta(seconds=frame)


def plan_sequences(images: int, seed: int, geo_shift: float = 1.0) -> list[Sequence]:
    """All sequences of a dataset, in order; each city has as many with roadwork as without.

    ``geo_shift`` is the probability, 0 to 1, that a sequence looks as its own city does. Nothing else depends on it,
    and those that look their own way still do so at any higher ``geo_shift``.
    """
    total = -(-images // FRAMES)
    rng = stream(seed, "gps")
    forms = np.full(total, "columns", dtype="<U7")
    order = rng.permutation(total)
    without, as_text = round(0.1 * total), round(0.1 * total)
    forms[order[:without]] = "none"
    forms[order[without : without + as_text]] = "text"

    is_own, borrowed = _draw_looks(total, geo_shift, seed)
    sequences: list[Sequence] = []
    for number, (city, count) in enumerate(zip(CITIES, _city_counts(total), strict=True)):
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


def deployment_points(seed: int) -> np.ndarray:
    """(M, 2) latitude and longitude in degrees of where the model will be used."""
    cities = [city for city in CITIES if city.is_deployment]
    counts = [len(part) for part in np.array_split(np.arange(DEPLOYMENT_POINTS), len(cities))]
    points = [
        _scatter(city, count, stream(seed, "deployment", number))
        for number, (city, count) in enumerate(zip(cities, counts, strict=True))
    ]
    return np.concatenate(points).round(6)


def _city_counts(total: int) -> list[int]:
    """Sequences of each city, by the largest remainders."""
    exact = np.array([city.share for city in CITIES]) * total
    counts = np.floor(exact).astype(int)
    largest = np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]
    counts[largest] += 1
    return [int(count) for count in counts]


def _draw_looks(total: int, geo_shift: float, seed: int) -> tuple[np.ndarray, list[Look]]:
    """Which sequences keep their city's look, and the one that each would borrow.

    Cities lend by their shares, so that each look is as frequent in the dataset at any ``geo_shift``.
    """
    rng = stream(seed, "look")
    is_own = rng.random(total) < geo_shift
    lenders = rng.choice(len(CITIES), total, p=[city.share for city in CITIES])
    return is_own, [CITIES[lender].look for lender in lenders]


def _scatter(city: City, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 2) latitude and longitude in degrees around a city's centre."""
    per_degree = METRES_PER_DEGREE * np.array([1.0, np.cos(np.radians(city.latitude))])
    return np.array([city.latitude, city.longitude]) + scatter(count, rng) / per_degree


def _draw_time(city: City, time_of_day: str, rng: np.random.Generator) -> datetime:
    """A moment in UTC at which the local sun stands as the picture shows."""
    hour = rng.uniform(18.0, 20.5) if time_of_day == "dusk" else rng.uniform(8.5, 16.5)
    day = datetime(2024, 4, 1, tzinfo=UTC) + timedelta(days=int(rng.integers(0, 540)))
    return (day + timedelta(hours=hour - city.longitude / 15)).replace(microsecond=0)
