"""Measures whether facts other than a photo's content predict its label, such as file type, size, camera or hour.

A network can learn such a shortcut and score high on val_test, where the same shortcut works. It then fails on photos
from another source (Geirhos et al., "Shortcut learning in deep neural networks", Nature Machine Intelligence 2, 2020).
"""

from __future__ import annotations

import io
import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import ExifTags, Image, JpegImagePlugin
from sklearn.base import ClassifierMixin
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

from roadwork.core.progress import track
from roadwork.data.images import FileImages, ImageSource, UnreadableImageError, open_image
from roadwork.data.open import Dataset
from roadwork.metrics.classification import mcc
from roadwork.metrics.intervals import count_by_group, count_intervals

MAX_ROWS = 2000
FOLDS = 5
SEED = 0
DRAWS = 1000

# A fact is a shortcut if the lower end of its MCC's 95 % interval is above the first, or its MCC above the second: with
# few groups the interval is wide.
WARN_ABOVE_LOW, WARN_ABOVE = 0.2, 0.5

# The columns behind each fact. Place columns are the dataset's own; other columns may describe the content.
FACTS = {
    "file type": ["format"],
    "file name": ["name_pattern", "name_length"],
    "file size": ["megabytes", "bytes_per_pixel"],
    "image size": ["width", "height", "megapixels"],
    "aspect ratio": ["aspect"],
    "camera": ["camera"],
    "compression": ["quantization", "subsampling", "is_progressive"],
    "hour": ["hour"],
    "position": ["latitude", "longitude"],
}
CONTENT = "file size"  # a busy street compresses worse, so this one is reported, and never warns by itself
PLACE_COLUMNS = ("source", "camera", "device", "city", "region", "state", "country")
_MAX_VALUES = 50  # a column with more values is an identifier, not a place


@dataclass(frozen=True)
class FactScore:
    """How well a fact alone predicts the label of rows in groups that the classifier has not seen.

    Attributes:
        fact: a key of `FACTS`, a place column, or `all facts`.
        mcc, mcc_low, mcc_high: Matthews correlation and its 95 % interval by group.
    """

    fact: str
    mcc: float
    mcc_low: float
    mcc_high: float

    @property
    def is_shortcut(self) -> bool:
        """Whether the fact predicts the label too well; never for the file size, which depends on the content."""
        return self.fact != CONTENT and (self.mcc_low > WARN_ABOVE_LOW or self.mcc > WARN_ABOVE)

    def __str__(self) -> str:
        return f"{self.fact} {self.mcc:.2f} ({self.mcc_low:.2f} to {self.mcc_high:.2f})"


@dataclass(frozen=True)
class Shortcuts:
    """What the facts about the photos tell of their labels.

    Attributes:
        n: rows measured.
        groups: their groups.
        together: of a classifier on all facts; None if nothing could be measured.
        scores: of each fact alone, the best first; facts with one value are left out.
        skipped: why nothing could be measured, else empty.
    """

    n: int
    groups: int
    together: FactScore | None
    scores: tuple[FactScore, ...] = ()
    skipped: str = ""

    @property
    def is_warning(self) -> bool:
        """Whether the label can be predicted without looking at the photo."""
        return any(score.is_shortcut for score in (self.together, *self.scores) if score)

    def __str__(self) -> str:
        if self.together is None:
            return self.skipped
        best = "; ".join(str(score) for score in self.scores[:3] if score.mcc > 0)
        return (
            f"MCC of file and camera facts alone, without the picture: {self.together.mcc:.2f} "
            f"({self.together.mcc_low:.2f} to {self.together.mcc_high:.2f}) on {self.n:,} photos"
            + (f"; best single facts: {best}" if best else "")
        )

    @property
    def advice(self) -> str:
        """What to do about a shortcut; empty if there is none."""
        if not self.is_warning:
            return ""
        fact = next((score.fact for score in self.scores if score.is_shortcut), "a mix of facts")
        return (
            f"{fact} predicts the label without the picture. A network can learn it, and val_test would not show it. "
            "Collect both classes in the same way, re-encode the photos alike, or judge on photos of another source: "
            "roadwork evaluate RUN --on DATASET"
        )

    def as_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self) | {"is_warning": self.is_warning, "advice": self.advice}


def measure_shortcuts(dataset: Dataset, split_names: np.ndarray) -> Shortcuts:
    """Predicts labels from facts about the photos by cross-validation over groups; reads headers, no pixels.

    Labels of val_test are not used. Above `MAX_ROWS` rows, a random sample is measured.

    Args:
        dataset: of N rows.
        split_names: (N,) the split of each row, empty for rows set aside.
    """
    rows = np.flatnonzero((split_names != "") & (split_names != "val_test"))
    if len(rows) > MAX_ROWS:
        rows = np.sort(np.random.default_rng(SEED).choice(rows, MAX_ROWS, replace=False))
    labels, groups = dataset.table.labels[rows], dataset.groups.names[rows]
    n_groups = len(np.unique(groups))
    fewest = min(len(np.unique(groups[labels == label])) for label in (0, 1))
    if fewest < FOLDS:
        skipped = f"Not measured: one class has {fewest} groups, and cross-validation needs {FOLDS}."
        return Shortcuts(len(rows), n_groups, None, skipped=skipped)
    frame, facts = read_facts(dataset, rows)
    everything = [column for fact, columns in facts.items() if fact != CONTENT for column in columns]
    if not everything:
        return Shortcuts(len(rows), n_groups, None, skipped="All photos have the same file and camera facts.")
    scores = [
        _score(fact, frame[columns], labels, groups, DecisionTreeClassifier(max_depth=3, min_samples_leaf=5))
        for fact, columns in facts.items()
    ]
    forest = RandomForestClassifier(50, max_depth=6, min_samples_leaf=3, random_state=SEED)
    together = _score("all facts", frame[everything], labels, groups, forest)
    return Shortcuts(len(rows), n_groups, together, tuple(sorted(scores, key=lambda score: -score.mcc)))


def read_facts(dataset: Dataset, rows: np.ndarray) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The facts of these rows, one column each, and the columns of each fact that has more than one value."""
    table = dataset.table.take(rows)
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # Pillow warns about damaged EXIF, which counts as missing
        headers = pool.map(lambda row: _read_header(dataset.source, int(row)), rows)
        frame = pd.DataFrame(list(track(headers, len(rows), "Reading headers")))
    stems = pd.Series([Path(name).stem for name in table.filenames])
    frame["name_pattern"] = stems.str.lower().str.replace(r"[0-9]+", "#", regex=True).str[:24]
    frame["name_length"] = stems.str.len()
    frame[["latitude", "longitude"]] = table.gps
    if "captured_at" in table.slices:
        hours = table.slices["captured_at"].map(_hour)
        frame["hour"] = hours.where(hours.notna(), frame["hour"])
    facts = dict(FACTS)
    for column in PLACE_COLUMNS:
        if column in table.slices and table.slices[column].nunique() <= _MAX_VALUES:
            frame[f"column_{column}"] = table.slices[column].astype(str)
            facts[f"column {column}"] = [f"column_{column}"]
    varied = {
        fact: [column for column in columns if len(frame[column].unique()) > 1] for fact, columns in facts.items()
    }
    return frame, {fact: columns for fact, columns in varied.items() if columns}


def _read_header(source: ImageSource, row: int) -> dict[str, Any]:
    """The facts in an image's header; all are missing if it cannot be read."""
    facts: dict[str, Any] = dict.fromkeys(("format", "camera", "subsampling"), "")
    names = ("megabytes", "bytes_per_pixel", "width", "height", "megapixels", "aspect", "quantization", "hour")
    facts |= dict.fromkeys((*names, "is_progressive"), np.nan)
    try:
        opened = source.paths[row].open("rb") if isinstance(source, FileImages) else io.BytesIO(source.read(row))
        with opened as file, open_image(file) as image:
            facts |= _facts_of(image, file.seek(0, os.SEEK_END))
    except (OSError, ValueError, SyntaxError, UnreadableImageError):
        pass
    return facts


def _facts_of(image: Image.Image, n_bytes: int) -> dict[str, Any]:
    pixels = image.width * image.height
    facts: dict[str, Any] = {
        "format": image.format,
        "megabytes": n_bytes / 1e6,
        "bytes_per_pixel": n_bytes / pixels,
        "width": image.width,
        "height": image.height,
        "megapixels": pixels / 1e6,
        "aspect": image.width / image.height,
    }
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        facts["quantization"] = float(np.mean(list(image.quantization.values())))
        facts["subsampling"] = str(JpegImagePlugin.get_sampling(image))
        facts["is_progressive"] = float("progressive" in image.info)
    if image.format != "PNG" or "exif" in image.info:  # else Pillow decodes the whole image to look behind the pixels
        exif = image.getexif()
        facts["camera"] = f"{exif.get(ExifTags.Base.Make, '')} {exif.get(ExifTags.Base.Model, '')}".strip("\0 ")
        facts["hour"] = _hour(str(exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal, "")))
    return facts


def _hour(moment: Any) -> float:
    """The hour, 0 to 23, of a date and time; NaN if it has none."""
    found = re.search(r"[T ](\d{2}):\d{2}", str(moment))
    return float(found[1]) if found else np.nan


def _score(
    fact: str, features: pd.DataFrame, labels: np.ndarray, groups: np.ndarray, classifier: ClassifierMixin
) -> FactScore:
    classifier.set_params(class_weight="balanced", random_state=SEED)
    texts = make_column_selector(dtype_include=["object", "string"])
    encode = make_column_transformer(
        (OneHotEncoder(min_frequency=5, handle_unknown="infrequent_if_exist", sparse_output=False), texts),
        remainder="passthrough",
    )
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    predicted = cross_val_predict(make_pipeline(encode, classifier), features, labels, groups=groups, cv=folds)
    counts = count_by_group(labels, predicted.astype(float), groups)
    _, intervals = count_intervals(counts, draws=DRAWS, seed=SEED)
    low, high = intervals["mcc"]
    return FactScore(fact, float(mcc(counts.sum(axis=0))), low, high)
