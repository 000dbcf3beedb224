"""Slices of a split: by distance, region, time of day, and every further column with few values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import h3
import numpy as np
import pandas as pd

from roadwork.data.samplers.weights import parse_brackets
from roadwork.data.table import column_text
from roadwork.data.utils.geo import h3_cells
from roadwork.metrics.predictions import further_columns
from roadwork.metrics.results import evaluate_slice
from roadwork.settings import Settings

# Below either number, a slice is too small for a reliable MCC and is shown in grey.
MIN_ROWS, MIN_GROUPS = 30, 10
UNKNOWN = "unknown"
_REGION_COLUMNS = ("city", "town", "municipality", "district", "region", "state", "province", "country")
# H3 resolutions, from cells of 6 km to cells of 320 km. The finest one with at most _MAX_CELLS cells is used.
_REGION_RESOLUTIONS, _MAX_CELLS = (6, 5, 4, 3, 2), 12
_MAX_VALUES = 20
_NUMBER_BINS = 4
_HOURS = ((6, "night, 22 to 6"), (10, "morning, 6 to 10"), (16, "day, 10 to 16"), (22, "evening, 16 to 22"))
_TIME = re.compile(r"\d{4}[-:/]\d\d[-:/]\d\d[T ](\d\d):\d\d(?::\d\d)?(?:\.\d+)?\s*(Z|[+-]\d\d:?\d\d)?$")


@dataclass(frozen=True)
class Slicing:
    """One way to slice a split.

    Attributes:
        title: name of the column or property.
        names: (N,) slice of each row.
    """

    title: str
    names: np.ndarray


@dataclass(frozen=True)
class SlicedMetrics:
    """The metrics of the slices of one slicing: the worst first, then small slices, then slices without MCC.

    Attributes:
        title: name of the column or property.
        parts: results of `evaluate_slice`, with `name` and `small`.
    """

    title: str
    parts: list[dict[str, Any]]


def find_slicings(frame: pd.DataFrame, settings: Settings) -> tuple[list[Slicing], list[str]]:
    """The slicings of a split, and the omitted columns with the reason.

    Args:
        frame: N rows of a predictions table.
        settings: settings of the run: distance brackets and time column.
    """
    brackets = parse_brackets(settings.data.gps_sampling.weight_brackets)
    names = np.array([*brackets.names, "no GPS"], dtype=object)
    slicings = [Slicing("Distance to the deployment", names[brackets.index_of(frame["distance_km"].to_numpy(float))])]
    region = find_region(frame, frame[["latitude", "longitude"]].to_numpy(np.float64))
    if region is not None:
        slicings.append(region)
    omitted = []
    for column in further_columns(frame):
        if region is not None and column == region.title:
            continue
        values = frame[column]
        cut = time_of_day(values) if column == settings.data.splitting.time_column else None
        if cut is not None:
            slicings.append(Slicing(f"{column}: hour, {cut[1]}", cut[0]))
        elif (parts := _few_values(values)) is None:
            omitted.append(f"{column} ({values.nunique():,} values)")
        elif len(set(parts)) > 1:
            slicings.append(Slicing(str(column), parts))
        else:
            omitted.append(f"{column} (one value)")
    return [slicing for slicing in slicings if len(set(slicing.names)) > 1], omitted


def find_region(columns: pd.DataFrame, gps: np.ndarray) -> Slicing | None:
    """Slices by region: a column such as city, else H3 cells; None if neither is known.

    Args:
        columns: (N, ...) further columns of the dataset.
        gps: (N, 2) latitude, longitude in degrees, NaN where missing.
    """
    by_lower = {str(name).lower(): name for name in columns.columns}
    for word in _REGION_COLUMNS:
        if word in by_lower and len(columns[by_lower[word]].dropna().unique()) > 1:
            return Slicing(str(by_lower[word]), _named(columns[by_lower[word]]))
    for resolution in _REGION_RESOLUTIONS:
        cells = h3_cells(gps, resolution)
        if 1 < len(set(cells) - {""}) <= _MAX_CELLS:
            across_km = 2 * h3.average_hexagon_edge_length(resolution, unit="km")
            names = np.array([_cell_name(cell) for cell in cells], dtype=object)
            return Slicing(f"Region (H3 cells, {across_km:.0f} km across)", names)
    return None


def time_of_day(values: pd.Series) -> tuple[np.ndarray, str] | None:
    """(N,) part of the day by the written hour, and its time zone; None if most values are not times."""
    found = [_TIME.match(text.strip()) for text in column_text(values)]
    read = [match for match in found if match]
    if 2 * len(read) <= len(values):
        return None
    zones = {match[2] for match in read}
    zone = (
        "time zone not given" if zones == {None} else "UTC" if zones <= {"Z", "+00:00", "+0000"} else "mixed time zones"
    )
    names = [UNKNOWN if match is None else _part_of_day(int(match[1])) for match in found]
    return np.array(names, dtype=object), zone


def slice_metrics(
    frame: pd.DataFrame,
    slicing: Slicing,
    *,
    draws: int,
    seed: int,
    threshold: float,
    judge: Callable[..., dict[str, Any]] = evaluate_slice,
) -> SlicedMetrics:
    """The metrics of each slice by `judge`; the other arguments are those of `evaluate_slice`."""
    parts = [
        judge(frame[slicing.names == name], draws=draws, seed=seed, threshold=threshold) | {"name": name}
        for name in sorted(set(slicing.names))
    ]
    for part in parts:
        part["small"] = part["n"] < MIN_ROWS or part["groups"] < MIN_GROUPS
    parts.sort(key=lambda part: (part["mcc"] is None, part["small"], part["mcc"] or 0.0))
    return SlicedMetrics(slicing.title, parts)


def worst_parts(sliced: list[SlicedMetrics]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every slice that is large enough, with the title of its slicing, the worst first."""
    large = [
        (metrics.title, part)
        for metrics in sliced
        for part in metrics.parts
        if not part["small"] and part["mcc"] is not None
    ]
    yield from sorted(large, key=lambda item: item[1]["mcc"])


def _few_values(values: pd.Series) -> np.ndarray | None:
    """(N,) slice of each row: its value, or a quartile of numbers; None if a text column has too many values."""
    if values.nunique() <= _MAX_VALUES:
        return _named(values)
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return None
    ranges = pd.qcut(values.astype(float), _NUMBER_BINS, duplicates="drop")
    texts = [UNKNOWN if pd.isna(span) else f"{span.left:.4g} to {span.right:.4g}" for span in ranges]
    return np.array(texts, dtype=object)


def _named(values: pd.Series) -> np.ndarray:
    text = column_text(values)
    return np.where(text == "", UNKNOWN, text)


def _cell_name(cell: str) -> str:
    if not cell:
        return "no GPS"
    latitude, longitude = h3.cell_to_latlng(cell)
    return f"around {latitude:.1f}°, {longitude:.1f}°"


def _part_of_day(hour: int) -> str:
    return next((name for end, name in _HOURS if hour < end), _HOURS[0][1])
