"""Judges whether a batch of photos looks like the training photos, from a reference sample in the model folder.

The verdict concerns the photos, not the predictions: accuracy cannot be known without labels.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
from torch import Tensor

from roadwork.core.errors import DataError
from roadwork.core.files import atomic_path
from roadwork.detector.two_sample import MIN_GROUPS, SIZES, Projection, auc_of, critical_value, separability

REFERENCE_FILE = "reference_features.npz"
FAMILIAR, UNFAMILIAR, UNKNOWN = "familiar", "unfamiliar", "unknown"
FACTS = ("brightness", "sharpness", "aspect ratio", "width", "height")
# Known for some photos only; the columns after those of `FACTS`.
CIRCUMSTANCES = ("hour", "latitude", "longitude")
PARTS_OF_DAY = ("night, 22 to 6", "morning, 6 to 10", "day, 10 to 16", "evening, 16 to 22")
_PART_STARTS = (6, 10, 16, 22)

# Places of training photos are stored on a grid of this many degrees, which moves them by up to 40 km.
PLACE_DEGREES = 0.5
FAR_KM = 100

# The half-width of the 95 % interval of an accuracy from labelled photos.
MARGIN = 0.05
_Z = 1.96
_SHOWN_FACTS = 2
# In standard deviations of the training photos; smaller differences are usual.
_NOTABLE = 0.5
# A share is compared in standard deviations of one photo, at least this.
_LEAST_SPREAD = 0.2
# Above this AUC, two decimals do not show a difference.
_SATURATED = 0.985


def photo_facts(
    pixels: Tensor, size: tuple[float, float], captured_at: str = "", gps: tuple[float, float] = (math.nan, math.nan)
) -> tuple[float, ...]:
    """Plain facts about a photo, in the order of `FACTS` and `CIRCUMSTANCES`.

    Args:
        pixels: (3, S, S) uint8, the whole photo as the network sees it.
        size: width and height of the upright photo; NaN if unknown.
        captured_at: time in ISO 8601; empty if unknown.
        gps: latitude and longitude in degrees; NaN if unknown.
    """
    grey = pixels.float().mean(dim=0) / 255
    sharpness = (grey.diff(dim=0).abs().mean() + grey.diff(dim=1).abs().mean()) / 2
    plain = float(grey.mean()), float(sharpness), size[0] / size[1], float(size[0]), float(size[1])
    return *plain, local_hour(captured_at, gps[1]), *gps


def local_hour(captured_at: str, longitude: float) -> float:
    """The hour of the day, 0 to 24, in solar time where zone and longitude are known; NaN if the time is unknown.

    A time without a zone is local, as in EXIF. A time with a zone, often UTC in tables, is the local one only if its
    zone is that of the place.
    """
    try:
        moment = datetime.fromisoformat(captured_at)
    except ValueError:
        return math.nan
    if moment.tzinfo is not None and not math.isnan(longitude):
        moment = moment.astimezone(UTC)
        return (moment.hour + moment.minute / 60 + longitude / 15) % 24
    return moment.hour + moment.minute / 60


def count_hours(hours: np.ndarray) -> np.ndarray:
    """(4,) number of photos in each of `PARTS_OF_DAY`, from hours (N,), NaN where unknown."""
    known = hours[~np.isnan(hours)]
    return np.bincount(np.digitize(known, _PART_STARTS) % len(PARTS_OF_DAY), minlength=len(PARTS_OF_DAY))


def coarse_places(gps: np.ndarray) -> np.ndarray:
    """(P, 2) int16 distinct places in units of `PLACE_DEGREES`, from latitude, longitude (N, 2), NaN where missing."""
    known = gps[~np.isnan(gps).any(axis=1)]
    return np.unique(np.rint(known / PLACE_DEGREES).astype(np.int16), axis=0)


@dataclass(frozen=True)
class Reference:
    """Features of R photos of the training data, without photos, names or exact positions.

    Attributes:
        features: (R, D) penultimate features of the exported network.
        groups: (R,) number of each row's group: sequence, near-duplicates, place.
        facts: (R, len(FACTS)).
        sizes: (S,) batch sizes of the null distribution; empty if there are too few groups.
        null: (S, N) statistic d' of held-out groups.
        val_test: the run's result on val_test, such as its `mcc`; empty if it was not evaluated.
        hours: (4,) photos in each of `PARTS_OF_DAY`; all 0 if their times are unknown.
        places: (P, 2) places of all training photos, as in `coarse_places`; P is 0 if they are not stored.
    """

    features: np.ndarray
    groups: np.ndarray
    facts: np.ndarray
    sizes: np.ndarray
    null: np.ndarray
    val_test: dict[str, Any] = field(default_factory=dict)
    hours: np.ndarray = field(default_factory=lambda: np.zeros(len(PARTS_OF_DAY), dtype=np.int32))
    places: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int16))

    def write(self, folder: Path) -> None:
        """Writes the file, with features in half precision."""
        with atomic_path(folder / REFERENCE_FILE) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                features=self.features.astype(np.float16),
                groups=self.groups.astype(np.int32),
                facts=self.facts.astype(np.float32),
                sizes=self.sizes.astype(np.int32),
                null=self.null.astype(np.float32),
                val_test=np.array(json.dumps(self.val_test)),
                hours=self.hours.astype(np.int32),
                places=self.places.astype(np.int16),
            )

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The reference of an exported folder; None if it has none.

        Raises:
            DataError: the file is damaged.
        """
        path = folder / REFERENCE_FILE
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in ("features", "groups", "facts", "sizes", "null")}
                val_test = json.loads(str(stored["val_test"]))
                later = {name: stored[name] for name in ("hours", "places") if name in stored}  # not in older exports
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DataError(f"{path} cannot be read ({error}). Delete it, or export again.") from None
        return cls(**arrays | {"features": arrays["features"].astype(np.float32)}, val_test=val_test, **later)

    def without_places(self) -> Self:
        """The same without places."""
        return replace(self, places=self.places[:0])

    @property
    def most(self) -> int:
        """Number of photos of a batch that are compared."""
        return int(self.sizes.max(initial=0))

    def limit(self, n: int) -> float:
        """The d' that a batch of `n` photos of the training's kind exceeds in at most 5 of 100 cases.

        It is at least 0: a batch that is separated no better than by chance is familiar.
        """
        values = [critical_value(row) for row in self.null]
        return max(0.0, float(np.interp(math.log(n), np.log(self.sizes), values)))


@dataclass(frozen=True)
class FactDifference:
    """A fact that differs.

    Attributes:
        name: one of `FACTS`, a part of the day, or the distance to the training photos.
        batch, training: the medians, or the shares of the photos.
        difference: of the two, in standard deviations of the training photos.
        is_share: whether `batch` and `training` are shares.
    """

    name: str
    batch: float
    training: float
    difference: float
    is_share: bool = False

    def __str__(self) -> str:
        if self.is_share:
            return f"{self.name} {self.batch:.0%} (training {self.training:.0%})"
        return f"{self.name} {self.batch:.3g} (training {self.training:.3g})"


@dataclass(frozen=True)
class Familiarity:
    """Whether a batch looks like the training photos.

    Attributes:
        verdict: `familiar`, `unfamiliar`, or `unknown` if it cannot be judged.
        distance: statistic d' of separating the batch from the training photos by a cross-validated classifier; None
            if unknown.
        limit: the d' that batches of the training's kind exceed in at most 5 of 100 cases; None if unknown.
        n: photos compared.
        facts: plain facts by the size of their difference, the largest first.
        val_test: the run's result on val_test, such as its `mcc`; empty if unknown.
        reason: why the verdict is unknown.
    """

    verdict: str
    distance: float | None = None
    limit: float | None = None
    n: int = 0
    facts: tuple[FactDifference, ...] = ()
    val_test: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    @property
    def auc(self) -> float | None:
        """`distance` as an AUC. Cross-validation can give less than chance, which counts as 0.5."""
        return None if self.distance is None else max(0.5, auc_of(self.distance))

    @property
    def threshold(self) -> float | None:
        """`limit` as an AUC."""
        return None if self.limit is None else auc_of(self.limit)

    @property
    def notable(self) -> tuple[FactDifference, ...]:
        """The facts that differ most, if they differ by more than is usual."""
        return tuple(fact for fact in self.facts[:_SHOWN_FACTS] if abs(fact.difference) >= _NOTABLE)

    def as_dict(self) -> dict[str, Any]:
        """All fields, as JSON values; `differs` has the notable facts in words."""
        more = {"auc": self.auc, "threshold": self.threshold, "differs": [str(fact) for fact in self.notable]}
        return asdict(self) | more

    def lines(self, model: str | Path, n_photos: int) -> list[str]:
        """The verdict for people.

        Args:
            model: the exported folder.
            n_photos: photos in the batch, compared or not.
        """
        if self.verdict == UNKNOWN:
            return self.comparison()
        n_labels = labels_needed(n_photos)
        advice = (
            f"{self._worth()} Accuracy cannot be known without labels: label {n_labels:,} of these photos, drawn at "
            f"random, for an accuracy within ±{MARGIN:g}, then run: roadwork evaluate {model} --on DATASET"
        )
        return [*self.comparison(), advice]

    def comparison(self) -> list[str]:
        """The verdict and the facts that differ, for people."""
        if self.auc is None or self.threshold is None or self.distance is None:
            return [f"It cannot be judged whether these photos look like the training photos: {self.reason}"]
        looks = "looks" if self.verdict == FAMILIAR else "does not look"
        own, usual = f"AUC {self.auc:.2f}", f"{self.threshold:.2f}"
        if min(self.auc, self.threshold) > _SATURATED:
            own, usual = f"{own} (d' {self.distance:.1f})", f"{usual} (d' {self.limit:.1f})"
        compared = (
            f"This batch {looks} like the training photos: a classifier separates {self.n} of its photos from them "
            f"with {own}; unseen groups of training photos reach {usual} in 95 of 100 cases."
        )
        lines = [compared]
        if self.notable:
            lines.append(f"Differs most in: {', '.join(map(str, self.notable))}.")
        return lines

    def _worth(self) -> str:
        """What the result on val_test means for the batch."""
        mcc = self.val_test.get("mcc")
        known = "The result on val_test" if mcc is None else f"The val_test MCC of {mcc:.2f}"
        if self.verdict == FAMILIAR:
            return f"{known} was measured on photos like these."
        return f"{known} says little about these photos."


def labels_needed(n_photos: int) -> int:
    """Photos to label so that the 95 % interval of an accuracy is at most ±`MARGIN`, for `n_photos` in all.

    It is binomial, at the widest accuracy of 0.5, with the correction for a finite population.
    """
    unlimited = _Z**2 / 4 / MARGIN**2
    return math.ceil(unlimited / (1 + (unlimited - 1) / max(n_photos, 1)))


def unknown(reason: str, n: int = 0) -> Familiarity:
    """No verdict."""
    return Familiarity(UNKNOWN, n=n, reason=reason)


def judge(reference: Reference | None, features: np.ndarray | None, facts: np.ndarray) -> Familiarity:
    """The verdict on a batch of N photos.

    Args:
        reference: of the model; None if its folder has none.
        features: (N, D) penultimate features; None if the network has no such output.
        facts: (N, F) as of `photo_facts`; the columns of `CIRCUMSTANCES` may be missing.
    """
    n = len(facts)
    if reference is None:
        return unknown(
            f"the model folder has no {REFERENCE_FILE}. Export the run again, where its data can be read.", n
        )
    if features is None or features.shape[1] != reference.features.shape[1]:
        return unknown("the network does not return the features of the reference. Export the run again.", n)
    if reference.most == 0:
        return unknown(
            f"the held-out photos of training form fewer than {MIN_GROUPS} groups (sequences, places), or too few "
            "photos, so the usual difference between groups is not known.",
            n,
        )
    if n < SIZES[0]:
        return unknown(f"{n} photos are too few; {SIZES[0]} are needed.", n)
    if n > reference.most:
        kept = np.linspace(0, n - 1, reference.most).round().astype(np.int64)
        features, facts, n = features[kept], facts[kept], reference.most
    project = Projection.fit(reference.features)
    distance = separability(project(reference.features), reference.groups, project(features.astype(np.float32)))
    limit = reference.limit(n)
    verdict = UNFAMILIAR if distance > limit else FAMILIAR
    return Familiarity(verdict, distance, limit, n, compare_facts(facts, reference), reference.val_test)


def compare_facts(facts: np.ndarray, reference: Reference) -> tuple[FactDifference, ...]:
    """The facts of a batch (N, F) against those of training photos, the largest difference first."""
    batch, training = facts[:, : len(FACTS)], reference.facts
    medians, usual = np.median(batch, axis=0), np.median(training, axis=0)
    # A fact that hardly varies in training, such as the width, gets 5 % of its median.
    spread = np.maximum(training.std(axis=0), 0.05 * np.abs(usual) + 1e-6)
    found = [
        FactDifference(name, float(medians[i]), float(usual[i]), float((medians[i] - usual[i]) / spread[i]))
        for i, name in enumerate(FACTS)
        if not np.isnan(medians[i])
    ]
    if facts.shape[1] > len(FACTS):
        found += _compare_hours(facts[:, len(FACTS)], reference.hours)
        found += _compare_places(facts[:, len(FACTS) + 1 :], reference.places)
    return tuple(sorted(found, key=lambda fact: -abs(fact.difference)))


def _compare_hours(hours: np.ndarray, training: np.ndarray) -> list[FactDifference]:
    """The part of the day whose share differs most; none if the hours of fewer than 8 photos of either are known."""
    batch = count_hours(hours)
    if min(batch.sum(), training.sum()) < SIZES[0]:
        return []
    found = [
        _share_difference(name, own, usual)
        for name, own, usual in zip(PARTS_OF_DAY, batch / batch.sum(), training / training.sum(), strict=True)
    ]
    return [max(found, key=lambda fact: abs(fact.difference))]


def _compare_places(gps: np.ndarray, places: np.ndarray) -> list[FactDifference]:
    """The share of photos far from all training photos; none if fewer than 8 positions, or no places, are known."""
    known = gps[~np.isnan(gps).any(axis=1)]
    if len(known) < SIZES[0] or len(places) == 0:
        return []
    from roadwork.data.utils.geo import nearest_km  # noqa: PLC0415 -- h3 is slow to import

    distances, _ = nearest_km(known, places * PLACE_DEGREES)
    return [_share_difference(f"over {FAR_KM} km from training photos", float((distances > FAR_KM).mean()), 0.0)]


def _share_difference(name: str, batch: float, training: float) -> FactDifference:
    spread = max(math.sqrt(training * (1 - training)), _LEAST_SPREAD)
    return FactDifference(name, float(batch), float(training), float((batch - training) / spread), is_share=True)
