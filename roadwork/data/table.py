"""The metadata table of a dataset: one row per image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from roadwork.core.errors import ConfigError, DataError

_SHOWN = 8


@dataclass(frozen=True)
class Corrections:
    """The corrections that a person made to a table.

    Attributes:
        fingerprint: fingerprint of the table before the corrections, so that existing splits still fit.
        dropped_ids: rows to exclude from every split.
    """

    fingerprint: str
    dropped_ids: frozenset[str]


@dataclass(frozen=True)
class ExtraRows:
    """The rows of a table that come from `data.extra`; the column `source` of its slices names their dataset.

    Attributes:
        ids: ids of all these rows.
        train_only: ids of the rows that splits files do not list; they are in train or set aside.
    """

    ids: frozenset[str]
    train_only: frozenset[str]


@dataclass(frozen=True)
class SampleTable:
    """Metadata of N images, row-aligned.

    Attributes:
        ids: (N,) unique strings, which ``splits.json`` and ``predictions.parquet`` use.
        filenames: (N,) strings from the source, for people to find the image.
        labels: (N,) int64, 0 for None and 1 for Roadwork.
        gps: (N, 2) float64 latitude and longitude in degrees, NaN where missing.
        sequence_ids: (N,) strings, empty where unknown.
        slices: (N, ...) the dataset's further columns, copied into predictions and reports.
        notes: remarks from reading the source, one sentence each.
        corrections: by a person, if any.
        extra: the rows of mixed datasets, if any.
    """

    ids: np.ndarray
    filenames: np.ndarray
    labels: np.ndarray
    gps: np.ndarray
    sequence_ids: np.ndarray
    slices: pd.DataFrame
    notes: tuple[str, ...] = ()
    corrections: Corrections | None = None
    extra: ExtraRows | None = None

    def __post_init__(self) -> None:
        lengths = {
            name: len(getattr(self, name)) for name in ("ids", "filenames", "labels", "gps", "sequence_ids", "slices")
        }
        if len(set(lengths.values())) != 1:
            raise DataError(f"The columns of a table differ in length: {lengths}.")
        if self.gps.shape != (len(self.ids), 2):
            raise DataError(f"gps has shape {self.gps.shape}; it must be (N, 2): latitude, longitude.")
        duplicated = pd.Series(self.ids)[pd.Series(self.ids).duplicated()].unique()
        if len(duplicated):
            raise DataError(
                f"{len(duplicated)} ids occur more than once, first {duplicated[0]!r}. Each row needs a unique id. "
                "Remove the repeated rows, or map another column with data.columns.id=NAME."
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_gps(self) -> np.ndarray:
        """(N,) bool, True where a row has a position."""
        known: np.ndarray = ~np.isnan(self.gps).any(axis=1)
        return known

    @property
    def gps_coverage(self) -> float:
        """Share of rows with a position, 0 to 1."""
        return float(self.has_gps.mean()) if len(self) else 0.0

    def take(self, rows: np.ndarray) -> SampleTable:
        """The table of these rows (integer positions or a boolean mask), in that order."""
        return replace(
            self,
            ids=self.ids[rows],
            filenames=self.filenames[rows],
            labels=self.labels[rows],
            gps=self.gps[rows],
            sequence_ids=self.sequence_ids[rows],
            slices=self.slices.iloc[rows if rows.dtype != bool else np.flatnonzero(rows)].reset_index(drop=True),
        )

    def fingerprint(self) -> str:
        """SHA-256 over ids, labels, positions, sequences and dropped rows, independent of the order of rows."""
        order = np.argsort(self.ids)
        digest = hashlib.sha256()
        for values in (self.ids, self.labels, np.round(self.gps, 7), self.sequence_ids):
            digest.update("\x1f".join(map(str, values[order].tolist())).encode())
        if self.dropped_ids:
            digest.update("\x1f".join(["dropped", *sorted(self.dropped_ids)]).encode())
        return f"sha256:{digest.hexdigest()}"

    def source_fingerprint(self) -> str:
        """The fingerprint in splits files: of the data before label corrections, without train-only rows."""
        if self.corrections:
            return self.corrections.fingerprint
        return self.take(~self.is_train_only).fingerprint() if self.is_train_only.any() else self.fingerprint()

    @property
    def dropped_ids(self) -> frozenset[str]:
        """Ids of rows that a person has dropped. They stay in the table, so that row numbers do not change."""
        return self.corrections.dropped_ids if self.corrections else frozenset()

    @property
    def is_extra(self) -> np.ndarray:
        """(N,) bool, the rows that come from `data.extra`."""
        return self._has_id(self.extra.ids if self.extra else frozenset())

    @property
    def is_train_only(self) -> np.ndarray:
        """(N,) bool, the rows of `data.extra` that are in train or set aside, never in other splits."""
        return self._has_id(self.extra.train_only if self.extra else frozenset())

    def _has_id(self, ids: frozenset[str]) -> np.ndarray:
        return (
            np.fromiter((row_id in ids for row_id in self.ids), bool, len(self)) if ids else np.zeros(len(self), bool)
        )


def find_slice_column(table: SampleTable, key: str, column: str) -> pd.Series:
    """The column of `table.slices` that the setting `key` names.

    Raises:
        ConfigError: there is no such column.
    """
    if column not in table.slices:
        raise ConfigError(
            f"{key} is {column!r}. The data's further columns are: {', '.join(map(str, table.slices)) or 'none'}. "
            "Name one of these."
        )
    return table.slices[column]


def column_text(values: pd.Series) -> np.ndarray:
    """(N,) str of a column's values, empty where missing; whole numbers without a decimal point."""
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")  # pandas makes whole numbers floats if one is missing
    text = values.astype(object).where(values.notna(), "")
    return np.array([str(value).strip() for value in text], dtype=object)


def most_frequent(values: Iterable[object]) -> str:
    """The most frequent values with their counts, for a message."""
    counts = pd.Series([value for value in values if value != ""], dtype=object).value_counts()
    shown = ", ".join(f"{value} ({count:,} rows)" for value, count in counts.head(_SHOWN).items())
    more = f" and {len(counts) - _SHOWN:,} others" if len(counts) > _SHOWN else ""
    return f"{shown}{more}" if len(counts) else "none"
