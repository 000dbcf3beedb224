"""The dataset's further columns, as settings name them: pins, regions and times are read from here."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from roadwork.data.table import SampleTable
from roadwork.errors import ConfigError

_SHOWN = 8


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
