"""From photos to sites: what a road department wants is places, not pictures."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from roadwork.data.grouping.proximity import chord_of
from roadwork.data.utils.geo import degrees_of, haversine_km, unit_vectors
from roadwork.data.utils.position_tree import PositionTree
from roadwork.errors import ConfigError, DataError
from roadwork.inference.detector import ROADWORK
from roadwork.inference.site_evidence import combine_photos

PHOTO_COLUMNS = ("latitude", "longitude", "probability", "label", "abstain", "captured_at", "filename")
SITE_COLUMNS = (
    *("site_id", "latitude", "longitude", "radius_m", "n_photos", "n_photos_nearby_without"),
    *("first_seen", "last_seen", "probability", "photos"),
)
MAX_PHOTOS_NAMED = 20
_CELLS_A_RADIUS = 8
# Below it GPS noise alone would scatter one site into many; above it a "site" is a district.
_RADIUS_RANGE_M = (5.0, 1000.0)
_ZONE, _UTC = r"(?:Z|[+-]\d{2}:?\d{2})$", r"(?:Z|[+-]00:?00)$"


def find_sites(frame: pd.DataFrame, *, radius_m: float = 50.0, prior: float | None) -> pd.DataFrame:
    """One row a roadwork site, the most probable first.

    **The rule.** A position where a photo was called Roadwork is a *core* if no core lies within the radius; positions
    are asked in the order of how many others lie within the radius of them, the most first. Each photo belongs to its
    nearest core, if that is within the radius. So a site never reaches farther than the radius from its core, and a
    motorway with five kilometres of detections is a row of sites, at most one in each radius, not one long one. (Leader
    clustering, Hartigan, Clustering Algorithms, 1975, the leaders being density peaks. Linking neighbours, as DBSCAN
    does, would chain.)

    Photos without a position or a probability, those that abstain, and repeated rows have no part. The order of rows
    does not matter. Time grows with the photos, not with their pairs.

    Args:
        frame: a row a photo: latitude and longitude in degrees, NaN where unknown; the calibrated probability; the
            label, `Roadwork` or `None`; abstain; captured_at, as ISO 8601 text or null; filename.
        radius_m: see above, 5 to 1000.
        prior: share of Roadwork that the probabilities are meant for; None counts as 0.5.

    Returns:
        site_id: made from the site's first photo, so that it stays when photos are added.
        latitude, longitude: of the centre of its Roadwork photos, in degrees. That is where the cameras stood.
        radius_m: from there to the farthest of them.
        n_photos: called Roadwork.
        n_photos_nearby_without: called None, within the radius of the core, and not nearer to another site's.
        first_seen, last_seen: captured_at of the first and last Roadwork photo as it came; None where none is known.
        probability: `combine_photos` says how.
        photos: names of up to 20 of its Roadwork photos, the most probable first.

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
    # A Roadwork photo is within the radius of a core by construction; rounding must not lose it.
    near = photos[is_roadwork | (distance_km <= radius_m / 1000)]
    sites = _describe(near[near["is_roadwork"]])
    sites["n_photos_nearby_without"] = np.bincount(near["site"][~near["is_roadwork"]], minlength=len(cores))
    sites["probability"] = combine_photos(near, prior=prior)
    ranked = sites.sort_values(["probability", "site_id"], ascending=[False, True], ignore_index=True)
    return ranked[list(SITE_COLUMNS)]


def _prepare(frame: pd.DataFrame) -> pd.DataFrame:
    """The photos that say something of a place, each once, the first taken first."""
    is_answered = frame[["latitude", "longitude", "probability"]].notna().all(axis=1) & ~frame["abstain"].astype(bool)
    photos = frame.loc[is_answered, list(PHOTO_COLUMNS)].reset_index(drop=True)
    photos["is_roadwork"] = photos.pop("label") == ROADWORK
    photos["captured_at"] = photos["captured_at"].astype("string")
    photos["time"] = pd.to_datetime(photos["captured_at"], format="ISO8601", utc=True, errors="coerce")
    order = ["time", "filename", "latitude", "longitude", "probability"]
    return photos.drop(columns="abstain").drop_duplicates().sort_values(order, ignore_index=True)


def _find_cores(gps: np.ndarray, radius_km: float) -> np.ndarray:
    """(K, 2) latitude, longitude of the cores among positions (N, 2), each farther than the radius from the others."""
    places = np.unique(gps, axis=0)
    vectors = unit_vectors(places)
    chord = chord_of(radius_km)
    # Counted in grid cells, since in a dense city each position has thousands of others around it.
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
    """The date where and when each photo was taken, "" where unknown.

    A time with an offset, or without a zone, is local already. To one in UTC the sun's time of the longitude (N,) is
    added: by UTC's own date, one American afternoon would be two days.
    """
    local = pd.to_datetime(captured_at.str.replace(_ZONE, "", regex=True), format="ISO8601", errors="coerce")
    is_utc = captured_at.str.contains(_UTC).fillna(value=False).to_numpy(dtype=bool)
    local += pd.to_timedelta(np.where(is_utc, longitude / 15, 0.0), "h")
    return local.dt.strftime("%Y-%m-%d").fillna("")


def _describe(roadwork: pd.DataFrame) -> pd.DataFrame:
    """A row a site of what its Roadwork photos, the first taken first, say but the probability."""
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
