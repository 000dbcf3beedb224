"""One row an image: the metadata that every part of roadwork reads, and never a pixel."""

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
    """What a person changed in a table.

    Attributes:
        fingerprint: of the table as it was before, so that splits made then still fit.
        dropped_ids: rows to be left out of every split.
    """

    fingerprint: str
    dropped_ids: frozenset[str]


@dataclass(frozen=True)
class ExtraRows:
    """Which rows of a table come from `data.extra`; the column `source` of its slices says from which dataset.

    Attributes:
        ids: of all of them.
        train_only: of those that no file of splits is made for: they are trained on, or set aside.
    """

    ids: frozenset[str]
    train_only: frozenset[str]


@dataclass(frozen=True)
class SampleTable:
    """Metadata of N images, row-aligned.

    Attributes:
        ids: (N,) unique strings; what ``splits.json`` and ``predictions.parquet`` name a row by.
        filenames: (N,) strings, as the source gives them; for people to find the picture.
        labels: (N,) int64, 0 for None and 1 for Roadwork.
        gps: (N, 2) float64 latitude and longitude in degrees, NaN where missing.
        sequence_ids: (N,) strings, empty where unknown.
        slices: (N, ...) the dataset's further columns, carried into predictions and reports.
        notes: what reading the source found worth saying, one sentence each.
        corrections: what a person changed in it, where there is anything.
        extra: which rows were mixed in from other datasets, where there are any.
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
                f"{len(duplicated)} ids occur more than once, first {duplicated[0]!r}. Each row needs its own. "
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
        """The table of these rows (integer positions or a boolean mask), in their order."""
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
        """SHA-256 over ids, labels, positions, sequences and dropped rows, whatever the order of the rows."""
        order = np.argsort(self.ids)
        digest = hashlib.sha256()
        for values in (self.ids, self.labels, np.round(self.gps, 7), self.sequence_ids):
            digest.update("\x1f".join(map(str, values[order].tolist())).encode())
        if self.dropped_ids:
            digest.update("\x1f".join(["dropped", *sorted(self.dropped_ids)]).encode())
        return f"sha256:{digest.hexdigest()}"

    def source_fingerprint(self) -> str:
        """What splits are made for: the data as it came, before corrections of labels, without train-only rows."""
        if self.corrections:
            return self.corrections.fingerprint
        return self.take(~self.is_train_only).fingerprint() if self.is_train_only.any() else self.fingerprint()

    @property
    def dropped_ids(self) -> frozenset[str]:
        """Rows that a person has thrown out; they stay in the table, so that row numbers keep their meaning."""
        return self.corrections.dropped_ids if self.corrections else frozenset()

    @property
    def is_extra(self) -> np.ndarray:
        """(N,) bool, the rows that come from `data.extra`."""
        return self._has_id(self.extra.ids if self.extra else frozenset())

    @property
    def is_train_only(self) -> np.ndarray:
        """(N,) bool, the rows of `data.extra` that are trained on or set aside, and never judged by."""
        return self._has_id(self.extra.train_only if self.extra else frozenset())

    def _has_id(self, ids: frozenset[str]) -> np.ndarray:
        return (
            np.fromiter((row_id in ids for row_id in self.ids), bool, len(self)) if ids else np.zeros(len(self), bool)
        )


def find_slice_column(table: SampleTable, key: str, column: str) -> pd.Series:
    """The column of `table.slices` that the setting `key` names.

    Raises:
        ConfigError: there is none of this name.
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
        values = values.astype("Int64")  # whole numbers that became floats because one is missing
    text = values.astype(object).where(values.notna(), "")
    return np.array([str(value).strip() for value in text], dtype=object)


def most_frequent(values: Iterable[object]) -> str:
    """The values that occur most, with their counts, for a message."""
    counts = pd.Series([value for value in values if value != ""], dtype=object).value_counts()
    shown = ", ".join(f"{value} ({count:,} rows)" for value, count in counts.head(_SHOWN).items())
    more = f" and {len(counts) - _SHOWN:,} others" if len(counts) > _SHOWN else ""
    return f"{shown}{more}" if len(counts) else "none"
