"""Judges whether a batch of photos looks like the training photos, from a reference sample in the model folder.

The verdict concerns the photos, not the predictions: accuracy cannot be known without labels.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
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

# The half-width of the 95 % interval of an accuracy from labelled photos.
MARGIN = 0.05
_Z = 1.96
_SHOWN_FACTS = 2
# In standard deviations of the training photos; smaller differences are usual.
_NOTABLE = 0.5
# Above this AUC, two decimals do not show a difference.
_SATURATED = 0.985


def photo_facts(pixels: Tensor, size: tuple[float, float]) -> tuple[float, ...]:
    """Plain facts about a photo, in the order of `FACTS`.

    Args:
        pixels: (3, S, S) uint8, the whole photo as the network sees it.
        size: width and height of the upright photo; NaN if unknown.
    """
    grey = pixels.float().mean(dim=0) / 255
    sharpness = (grey.diff(dim=0).abs().mean() + grey.diff(dim=1).abs().mean()) / 2
    return float(grey.mean()), float(sharpness), size[0] / size[1], float(size[0]), float(size[1])


@dataclass(frozen=True)
class Reference:
    """Features of R photos of the training data, without photos, names or positions.

    Attributes:
        features: (R, D) penultimate features of the exported network.
        groups: (R,) number of each row's group: sequence, near-duplicates, place.
        facts: (R, len(FACTS)).
        sizes: (S,) batch sizes of the null distribution; empty if there are too few groups.
        null: (S, N) statistic d' of held-out groups.
        val_test: the run's result on val_test, such as its `mcc`; empty if it was not evaluated.
    """

    features: np.ndarray
    groups: np.ndarray
    facts: np.ndarray
    sizes: np.ndarray
    null: np.ndarray
    val_test: dict[str, Any] = field(default_factory=dict)

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
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DataError(f"{path} cannot be read ({error}). Delete it, or export again.") from None
        return cls(**arrays | {"features": arrays["features"].astype(np.float32)}, val_test=val_test)

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
    """A fact whose median differs.

    Attributes:
        name: one of `FACTS`.
        batch, training: the medians.
        difference: of the medians, in standard deviations of the training photos.
    """

    name: str
    batch: float
    training: float
    difference: float

    def __str__(self) -> str:
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
        """All fields, as JSON values."""
        return asdict(self) | {"auc": self.auc, "threshold": self.threshold}

    def lines(self, model: str | Path, n_photos: int) -> list[str]:
        """The verdict for people.

        Args:
            model: the exported folder.
            n_photos: photos in the batch, compared or not.
        """
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
        n_labels = labels_needed(n_photos)
        lines.append(
            f"{self._worth()} Accuracy cannot be known without labels: label {n_labels:,} of these photos, drawn at "
            f"random, for an accuracy within ±{MARGIN:g}, then run: roadwork evaluate {model} --on DATASET"
        )
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
        facts: (N, len(FACTS)).
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
    return Familiarity(verdict, distance, limit, n, compare_facts(facts, reference.facts), reference.val_test)


def compare_facts(batch: np.ndarray, training: np.ndarray) -> tuple[FactDifference, ...]:
    """The facts of a batch (N, F) against those of training photos (R, F), the largest difference first."""
    medians, usual = np.median(batch, axis=0), np.median(training, axis=0)
    # A fact that hardly varies in training, such as the width, gets 5 % of its median.
    spread = np.maximum(training.std(axis=0), 0.05 * np.abs(usual) + 1e-6)
    found = [
        FactDifference(name, float(medians[i]), float(usual[i]), float((medians[i] - usual[i]) / spread[i]))
        for i, name in enumerate(FACTS)
        if not np.isnan(medians[i])
    ]
    return tuple(sorted(found, key=lambda fact: -abs(fact.difference)))
