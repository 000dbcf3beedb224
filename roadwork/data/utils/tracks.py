"""GPS tracks: reading GPX, and the position at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Self

import numpy as np

from roadwork.core.errors import DataError, MissingExtraError
from roadwork.data.utils.geo import degrees_of, haversine_km, unit_vectors

VIDEO_INSTALL = "pip install 'roadwork-vision[video]'"


@dataclass(frozen=True)
class Track:
    """Where a device was over time.

    Attributes:
        times: (N,) seconds since 1970-01-01 UTC, ascending, each once.
        points: (N, 2) latitude, longitude in degrees.
    """

    times: np.ndarray
    points: np.ndarray

    @classmethod
    def of(cls, times: np.ndarray, points: np.ndarray) -> Self:
        """A track of points in any order; of several at one time the first is kept."""
        times, first = np.unique(np.asarray(times, dtype=np.float64), return_index=True)
        return cls(times, np.asarray(points, dtype=np.float64).reshape(-1, 2)[first])

    @classmethod
    def read(cls, path: Path) -> Self:
        """The track of a GPX file; times without a UTC offset are in UTC, as GPX asks.

        Raises:
            DataError: the file is not GPX, or fewer than two of its points have a time.
            MissingExtraError: gpxpy is not installed.
        """
        try:
            import gpxpy  # noqa: PLC0415 -- an extra
        except ImportError:
            raise MissingExtraError(f"A GPX track needs the package gpxpy: {VIDEO_INSTALL}") from None
        try:
            found = gpxpy.parse(path.read_bytes())
        except (gpxpy.gpx.GPXException, OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as GPX ({error}). Allowed: a GPX 1.0 or 1.1 file.") from None
        timed = [
            (point.time if point.time.tzinfo else point.time.replace(tzinfo=UTC), point.latitude, point.longitude)
            for point in found.walk(only_points=True)
            if point.time is not None
        ]
        if len(timed) < 2:
            raise DataError(f"{path} has {len(timed)} points with a time. Allowed: 2 or more, as a GPS logger writes.")
        times, *degrees = zip(*timed, strict=True)
        return cls.of(np.array([time.timestamp() for time in times]), np.array(degrees).T)

    def at(self, times: np.ndarray, max_gap: float) -> np.ndarray:
        """(M, 2) latitude, longitude at (M,) times, on the great circle between the points before and after.

        NaN before the first and after the last point, and between points that are more than `max_gap` seconds apart.
        """
        times = np.asarray(times, dtype=np.float64)
        after = np.searchsorted(self.times, times).clip(1, len(self.times) - 1)
        start, end = self.times[after - 1], self.times[after]
        share = ((times - start) / (end - start))[:, None]
        positions = _between(unit_vectors(self.points[after - 1]), unit_vectors(self.points[after]), share)
        is_known = (start <= times) & (times <= end) & (end - start <= max_gap)
        on_point = np.isin(times, self.times)  # beside a gap, a point itself is still known
        positions[on_point] = self.points[np.searchsorted(self.times, times[on_point])]
        positions[~(is_known | on_point)] = np.nan
        return positions

    def metres_at(self, times: np.ndarray) -> np.ndarray:
        """(M,) metres along the track at (M,) times."""
        steps = 1000 * haversine_km(self.points[:-1], self.points[1:])
        along: np.ndarray = np.interp(times, self.times, np.concatenate([[0.0], steps.cumsum()]))
        return along


def _between(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(M, 2) degrees at shares (M, 1) of the way between unit vectors (M, 3) (Shoemake's slerp, 1985)."""
    angle = 2 * np.arcsin(np.clip(np.linalg.norm(b - a, axis=1, keepdims=True) / 2, 0, 1))
    sine = np.sin(angle)
    is_near = sine < 1e-12
    safe = np.where(is_near, 1.0, sine)
    weights = (
        np.where(is_near, 1 - share, np.sin((1 - share) * angle) / safe),
        np.where(is_near, share, np.sin(share * angle) / safe),
    )
    return degrees_of(weights[0] * a + weights[1] * b)
