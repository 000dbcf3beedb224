"""Aggregates detections of several photos to roadwork sites."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.special import expit, logit

from roadwork.core.errors import ConfigError, DataError
from roadwork.core.files import atomic_path
from roadwork.data.grouping.proximity import chord_length
from roadwork.data.utils.geo import PositionTree, degrees_of, haversine_km, unit_vectors
from roadwork.data.utils.privacy import rounding_step_km
from roadwork.detector.detector import ROADWORK
from roadwork.detector.outputs import COLUMNS, Record
from roadwork.metrics.decision import MARGIN_LIMIT

logger = logging.getLogger(__name__)

# Assumed share of the photos within the radius of a roadwork that show it; the other cameras face elsewhere.
_VISIBLE = 0.5
PHOTO_COLUMNS = ("latitude", "longitude", "probability", "label", "abstain", "captured_at", "filename")
SITE_COLUMNS = (
    *("site_id", "latitude", "longitude", "radius_m", "n_photos", "n_photos_nearby_without"),
    *("first_seen", "last_seen", "probability", "photos"),
)
MAX_PHOTOS_NAMED = 20
_CELLS_A_RADIUS = 8

# With smaller radii, GPS noise splits a site into many; with larger ones, a "site" is a district.
_RADIUS_RANGE_M = (5.0, 1000.0)
_ZONE, _UTC = r"(?:Z|[+-]\d{2}:?\d{2})$", r"(?:Z|[+-]00:?00)$"

# 11 cm, finer than any GPS.
_DECIMALS = 6
_SUFFIXES = (".geojson", ".json", ".csv")
SITE_RADIUS_M = 50.0
_ROWS_AT_ONCE = 20_000


def combine_photos(photos: pd.DataFrame, *, prior: float | None) -> np.ndarray:
    """(K,) probability that there was roadwork at each of K sites.

    The photos of a site share the scene, the light and the model's errors, so they are not independent evidence.
    Multiplying their odds would turn four photos at 0.9 into near certainty. Instead:

    - **A photo's** evidence is its log likelihood ratio, logit(p) - logit(prior) (Good, Weighing evidence, 1950).
    - **A day** counts once, with its strongest Roadwork photo and its strongest None photo. The latter enters as a
      mixture, log(s exp(l) + 1 - s) with s = 1/2, because its camera may have faced elsewhere. So it at most halves the
      odds. None photos of other days do not count, because the roadwork may have started later or ended.
    - **Days** are also dependent. With a correlation of 1/2 between days, K days are worth K / (1 + (K - 1) / 2)
      independent ones (the design effect: Kish, Survey Sampling, 1965). So the k-th strongest day adds 2 / (k (k + 1))
      of its evidence, and all days together add at most twice the strongest. Negative evidence of a weaker day adds
      nothing.

    A single photo keeps its probability, and repeated photos add nothing. A further Roadwork photo never lowers the
    probability, and a None photo never raises it. Both values of 1/2 are assumed, not fitted. With many photos, some
    false alarms create sites, and no rule for a single site can detect this. So use the probabilities for ranking;
    their values are conservative.

    Args:
        photos: `site`, 0 to K - 1, each with a Roadwork photo; `day`, any values; `probability`; `is_roadwork`.
        prior: share of Roadwork that the probabilities assume; None counts as 0.5.

    Raises:
        ConfigError: the prior is not between 0 and 1.
    """
    if prior is not None and not 0 < prior < 1:
        raise ConfigError(f"The prior is {prior}; it must be above 0 and below 1.")
    base = float(logit(0.5 if prior is None else prior))
    ratio = pd.Series(
        np.clip(logit(photos["probability"].to_numpy()), -MARGIN_LIMIT, MARGIN_LIMIT) - base, photos.index
    )
    keys, is_roadwork = ["site", "day"], photos["is_roadwork"].to_numpy(dtype=bool)
    days = ratio[is_roadwork].groupby([photos.loc[is_roadwork, key] for key in keys]).max()
    lowest = ratio[~is_roadwork].groupby([photos.loc[~is_roadwork, key] for key in keys]).min()
    against = pd.Series(np.log(_VISIBLE * np.exp(lowest.to_numpy()) + 1 - _VISIBLE), lowest.index).clip(upper=0)
    table = (days + against.reindex(days.index, fill_value=0.0)).rename("evidence").reset_index()
    table = table.sort_values("evidence", ascending=False, kind="stable")
    rank = table.groupby("site").cumcount() + 1
    weighted = table["evidence"].where(rank == 1, table["evidence"].clip(lower=0)) * 2 / (rank * (rank + 1))
    combined = weighted.groupby(table["site"]).sum()
    probability: np.ndarray = expit(base + combined.to_numpy())
    return probability


def find_sites(frame: pd.DataFrame, *, radius_m: float = 50.0, prior: float | None) -> pd.DataFrame:
    """The roadwork sites, one row per site, the most probable first.

    This is leader clustering (Hartigan, Clustering Algorithms, 1975). The positions of Roadwork photos are visited in
    the order of how many others lie within the radius, the most first. A position becomes a *core* if no other core is
    within the radius. Each photo then belongs to its nearest core within the radius. So no site extends farther than
    the radius from its core, and five kilometres of detections along a motorway become a row of sites. DBSCAN would
    chain them into a single one.

    Photos without a position or a probability, photos in the abstain band, and repeated rows are ignored. The order of
    rows does not matter. The time grows with the number of photos, not of pairs.

    Args:
        frame: one row per photo: latitude and longitude in degrees, NaN where unknown; the calibrated probability; the
            label, `Roadwork` or `None`; abstain; captured_at, as ISO 8601 text or null; filename.
        radius_m: radius in metres, 5 to 1000.
        prior: share of Roadwork that the probabilities assume; None counts as 0.5.

    Returns:
        site_id: derived from the site's first photo, so that it does not change when photos are added.
        latitude, longitude: centre of the camera positions of its Roadwork photos, in degrees.
        radius_m: distance from the centre to the farthest of them.
        n_photos: number of Roadwork photos.
        n_photos_nearby_without: number of None photos within the radius of the core that are not nearer to another one.
        first_seen, last_seen: captured_at of the first and last Roadwork photo; None if no time is known.
        probability: see `combine_photos`.
        photos: names of up to 20 Roadwork photos, the most probable first.

    Raises:
        ConfigError: the radius or the prior is out of range.
        DataError: a column is missing.
    """
    low, high = _RADIUS_RANGE_M
    if not low <= radius_m <= high:
        raise ConfigError(f"The radius of a site is {radius_m} m; it must be {low:g} to {high:g}.")
    missing = [name for name in PHOTO_COLUMNS if name not in frame]
    if missing:
        raise DataError(f"The table of photos lacks {', '.join(missing)}; it must have {', '.join(PHOTO_COLUMNS)}.")
    photos = _prepare(frame)
    gps, is_roadwork = photos[["latitude", "longitude"]].to_numpy(), photos["is_roadwork"].to_numpy()
    if not is_roadwork.any():
        return pd.DataFrame(columns=list(SITE_COLUMNS))
    cores = _find_cores(gps[is_roadwork], radius_m / 1000)
    distance_km, photos["site"] = PositionTree(cores).nearest(gps)
    photos["day"] = _local_day(photos["captured_at"], cores[photos["site"], 1])
    # By construction each Roadwork photo is within the radius of a core; rounding must not exclude it.
    near = photos[is_roadwork | (distance_km <= radius_m / 1000)]
    sites = _describe(near[near["is_roadwork"]])
    sites["n_photos_nearby_without"] = np.bincount(near["site"][~near["is_roadwork"]], minlength=len(cores))
    sites["probability"] = combine_photos(near, prior=prior)
    ranked = sites.sort_values(["probability", "site_id"], ascending=[False, True], ignore_index=True)
    return ranked[list(SITE_COLUMNS)]


def _prepare(frame: pd.DataFrame) -> pd.DataFrame:
    """The usable photos in order of time, without duplicates."""
    is_usable = frame[["latitude", "longitude", "probability"]].notna().all(axis=1) & ~frame["abstain"].astype(bool)
    photos = frame.loc[is_usable, list(PHOTO_COLUMNS)].reset_index(drop=True)
    photos["is_roadwork"] = photos.pop("label") == ROADWORK
    photos["captured_at"] = photos["captured_at"].astype("string")
    # A time without a zone is local: in UTC it is earlier by the solar time at its longitude, as in `_local_day`.
    is_local = ~photos["captured_at"].str.contains(_ZONE).fillna(value=True).to_numpy(dtype=bool)
    photos["time"] = pd.to_datetime(photos["captured_at"], format="ISO8601", utc=True, errors="coerce")
    photos["time"] -= pd.to_timedelta(np.where(is_local, photos["longitude"] / 15, 0.0), "h")
    order = ["time", "filename", "latitude", "longitude", "probability"]
    return photos.drop(columns="abstain").drop_duplicates().sort_values(order, ignore_index=True)


def _find_cores(gps: np.ndarray, radius_km: float) -> np.ndarray:
    """(K, 2) latitude, longitude of the cores among positions (N, 2), each farther than the radius from the others."""
    places = np.unique(gps, axis=0)
    vectors = unit_vectors(places)
    chord = chord_length(radius_km)
    # Counts grid cells, because in a dense city each position has thousands of neighbours.
    cells, cell_of_place = np.unique(np.floor(vectors * (_CELLS_A_RADIUS / chord)), axis=0, return_inverse=True)
    n_around = cKDTree(cells).query_ball_point(cells, _CELLS_A_RADIUS, return_length=True, workers=-1)[cell_of_place]
    tree = cKDTree(vectors)
    is_taken = np.zeros(len(places), dtype=bool)
    cores = []
    for place in np.argsort(-n_around, kind="stable").tolist():
        if not is_taken[place]:
            cores.append(place)
            is_taken[tree.query_ball_point(vectors[place], chord)] = True
    chosen: np.ndarray = places[cores]
    return chosen


def _local_day(captured_at: pd.Series[str], longitude: np.ndarray) -> pd.Series[str]:
    """The local date of each photo, "" where unknown.

    A time with an offset, or without a zone, is local. A time in UTC is shifted to the solar time at the longitude
    (N,), because the UTC date changes during an American afternoon.
    """
    local = pd.to_datetime(captured_at.str.replace(_ZONE, "", regex=True), format="ISO8601", errors="coerce")
    is_utc = captured_at.str.contains(_UTC).fillna(value=False).to_numpy(dtype=bool)
    local += pd.to_timedelta(np.where(is_utc, longitude / 15, 0.0), "h")
    return local.dt.strftime("%Y-%m-%d").fillna("")


def _describe(roadwork: pd.DataFrame) -> pd.DataFrame:
    """One row per site with all columns except the probability, from its Roadwork photos in order of time."""
    by_site = roadwork.groupby("site")
    sums = by_site[["latitude"]].count()  # its index names the sites
    for axis, component in zip("xyz", unit_vectors(roadwork[["latitude", "longitude"]].to_numpy()).T, strict=True):
        sums[axis] = pd.Series(component, roadwork.index).groupby(roadwork["site"]).sum()
    centers = degrees_of(sums[["x", "y", "z"]].to_numpy())
    from_center_km = haversine_km(roadwork[["latitude", "longitude"]].to_numpy(), centers[roadwork["site"]])
    known = roadwork[roadwork["time"].notna()].astype({"captured_at": object}).groupby("site")["captured_at"]
    first_seen, last_seen = (seen.reindex(sums.index).astype(object) for seen in (known.first(), known.last()))
    first = roadwork.drop_duplicates("site").sort_values("site")[["filename", "latitude", "longitude", "captured_at"]]
    ranked = roadwork.sort_values(["site", "probability", "filename"], ascending=[True, False, True])
    named = ranked[ranked.groupby("site").cumcount() < MAX_PHOTOS_NAMED]
    ends = named.groupby("site").size().cumsum().to_numpy()
    return pd.DataFrame({
        "site_id": [_name_site(*row) for row in first.itertuples(index=False)],
        "latitude": centers[:, 0],
        "longitude": centers[:, 1],
        "radius_m": 1000 * pd.Series(from_center_km, roadwork.index).groupby(roadwork["site"]).max(),
        "n_photos": by_site.size(),
        "first_seen": first_seen.where(first_seen.notna(), None),
        "last_seen": last_seen.where(last_seen.notna(), None),
        "photos": [part.tolist() for part in np.split(named["filename"].to_numpy(object), ends[:-1])],
    })  # fmt: skip


def _name_site(*first_photo: object) -> str:
    return hashlib.sha256(repr(first_photo).encode()).hexdigest()[:12]


def write_sites(sites: pd.DataFrame, path: Path) -> None:
    """Writes the sites of `find_sites` atomically, as GeoJSON (RFC 7946), or as csv with the photos' names in JSON.

    Raises:
        ConfigError: the name ends in none of .geojson, .json, .csv.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{path} cannot be written; sites go to a file that ends in {', '.join(_SUFFIXES)}.")
    rounded = sites.assign(
        latitude=sites["latitude"].astype(float).round(_DECIMALS),
        longitude=sites["longitude"].astype(float).round(_DECIMALS),
        radius_m=sites["radius_m"].astype(float).round(1),
        probability=sites["probability"].astype(float).round(_DECIMALS),
    )
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".csv":
            names = [json.dumps(photos, ensure_ascii=False) for photos in rounded["photos"]]
            rounded.assign(photos=names).to_csv(temporary, index=False)
        else:
            features = [_feature(row) for row in rounded.to_dict("records")]
            content = {"type": "FeatureCollection", "features": features}
            temporary.write_text(json.dumps(content, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def _feature(site: dict[Any, Any]) -> dict[str, Any]:
    longitude, latitude = site.pop("longitude"), site.pop("latitude")
    properties = {name: None if value is None or value is pd.NA else value for name, value in site.items()}
    return {
        "type": "Feature",
        "id": properties["site_id"],
        "geometry": {"type": "Point", "coordinates": [longitude, latitude]},
        "properties": properties,
    }


def write_prediction_sites(path: Path, records: Callable[[], Iterable[Record]], prior: float | None) -> int:
    """Writes the sites of a prediction as GeoJSON, and returns their number.

    Args:
        path: path of the file.
        records: returns a new stream of all records at each call.
        prior: share of Roadwork that the probabilities assume; None if not calibrated.
    """
    sites = find_sites(rows_near_roadwork(records), radius_m=SITE_RADIUS_M, prior=prior)
    write_sites(sites, path)
    return len(sites)


def warn_of_coarse_sites(decimals: int | None) -> None:
    """Warns if positions are rounded to steps larger than a site's radius."""
    if rounding_step_km(decimals) * 1000 > SITE_RADIUS_M:
        logger.warning(
            "Positions are rounded to %s decimals (%.0f m), which is coarser than a site's radius of %.0f m.",
            decimals, rounding_step_km(decimals) * 1000, SITE_RADIUS_M,
        )  # fmt: skip


def rows_near_roadwork(records: Callable[[], Iterable[Record]]) -> pd.DataFrame:
    """The detections with a position, and all photos within a site's radius of one; no other photo can be in a site.

    So memory grows with the number of detections, not of photos.
    """
    detections = [(r.latitude, r.longitude) for r in records() if r.label == ROADWORK and r.has_gps]
    if not detections:
        return _as_frame([])
    tree = PositionTree(np.array(detections, dtype=np.float64))
    chunks = []
    for placed in _in_chunks(record for record in records() if record.label is not None and record.has_gps):
        distance_km, _ = tree.nearest(placed[["latitude", "longitude"]].to_numpy(np.float64))
        chunks.append(placed[distance_km <= SITE_RADIUS_M / 1000])
    return pd.concat(chunks, ignore_index=True)


def _in_chunks(records: Iterator[Record]) -> Iterator[pd.DataFrame]:
    while rows := list(islice(records, _ROWS_AT_ONCE)):
        yield _as_frame(rows)


def _as_frame(records: list[Record]) -> pd.DataFrame:
    return pd.DataFrame([record.as_row() for record in records], columns=list(COLUMNS))
