"""``predictions.parquet``: one row per image, with everything that calibration, metrics and reports need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from roadwork.core.errors import DataError, WiringError
from roadwork.core.files import atomic_path
from roadwork.data.table import SampleTable
from roadwork.metrics.decision import margin, softmax_roadwork

_TEXT, _WHOLE, _REAL = "text", "whole numbers", "numbers"

# The kind of `group` is None: groups are text or whole numbers.
_KINDS = {
    "id": _TEXT,
    "filename": _TEXT,
    "split": _TEXT,
    "label": _WHOLE,
    "logit_none": _REAL,
    "logit_roadwork": _REAL,
    "probability": _REAL,
    "latitude": _REAL,
    "longitude": _REAL,
    "group": None,
    "distance_km": _REAL,
}
COLUMNS = tuple(_KINDS)

# Calibration adds this one.
CALIBRATED_COLUMN = "probability_calibrated"

# Only positions and distances may be missing.
_MAY_BE_MISSING = ("latitude", "longitude", "distance_km")


def build_predictions(
    table: SampleTable, splits: np.ndarray, groups: np.ndarray, logits: np.ndarray, distance_km: np.ndarray
) -> pd.DataFrame:
    """The predictions table of N rows: the columns in `COLUMNS`, then the dataset's further ones.

    Args:
        table: The N predicted rows, in the order of the other arguments.
        splits: (N,) names.
        groups: (N,) text or whole numbers; rows of one group are not independent.
        logits: (N, 2) of None and Roadwork, before calibration.
        distance_km: (N,) kilometres to the nearest deployment centre, NaN where unknown.

    Raises:
        DataError: The arguments differ in length.
        WiringError: A logit is not a finite number.
    """
    lengths = {"splits": len(splits), "groups": len(groups), "logits": len(logits), "distance_km": len(distance_km)}
    if set(lengths.values()) != {len(table)} or logits.shape != (len(table), 2):
        raise DataError(f"The table has {len(table)} rows, but {lengths}, and logits of shape {logits.shape}.")
    logits = logits.astype(np.float64)
    broken = table.ids[~np.isfinite(logits).all(axis=1)]
    if len(broken):
        raise WiringError(
            f"The model returned non-finite logits for {len(broken)} of {len(table)} rows: "
            f"{', '.join(map(str, broken[:5]))}{', ...' if len(broken) > 5 else ''}. "
            "Train with a lower training.lr or training.precision=32-true."
        )
    columns = {
        "id": table.ids,
        "filename": table.filenames,
        "split": splits,
        "label": table.labels.astype(np.int64),
        "logit_none": logits[:, 0],
        "logit_roadwork": logits[:, 1],
        "probability": softmax_roadwork(logits),
        "latitude": table.gps[:, 0],
        "longitude": table.gps[:, 1],
        "group": groups,
        "distance_km": distance_km.astype(np.float64),
    }
    return pd.DataFrame(columns | _further_columns(table.slices))


def predicted_margins(frame: pd.DataFrame) -> np.ndarray:
    """(N,) float64 logit of Roadwork minus logit of None, from a predictions table."""
    return margin(frame[["logit_none", "logit_roadwork"]].to_numpy(np.float64))


def further_columns(frame: pd.DataFrame) -> list[str]:
    """The dataset's own columns of a predictions table."""
    return [name for name in frame.columns if name not in (*COLUMNS, CALIBRATED_COLUMN)]


def write_predictions(frame: pd.DataFrame, path: Path) -> None:
    """Writes the table atomically."""
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, engine="pyarrow", index=False)


def read_predictions(path: Path) -> pd.DataFrame:
    """The predictions table of a run.

    Raises:
        DataError: The file is missing or not parquet, a column is missing, or a value is not allowed.
    """
    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. `roadwork evaluate RUN` writes it.") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as parquet: {str(error).rstrip('.')}. Write it again with `roadwork evaluate RUN`."
        ) from error
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; a predictions table has {', '.join(COLUMNS)}.")
    for name, kind in _KINDS.items():
        _check_column(frame[name], kind, path)
    if not frame["label"].isin((0, 1)).all():
        raise DataError(f"{path}: label holds {sorted(set(frame['label']))[:5]}; allowed: 0 (None) and 1 (Roadwork).")
    if not frame["probability"].between(0, 1).all():
        raise DataError(
            f"{path}: probability runs from {frame['probability'].min()} to {frame['probability'].max()}; "
            "it must lie between 0 and 1."
        )
    return frame


def _check_column(column: pd.Series, kind: str | None, path: Path) -> None:
    is_text = pd.api.types.is_string_dtype(column.dtype)
    is_whole = pd.api.types.is_integer_dtype(column.dtype)
    fits = {
        _TEXT: is_text,
        _WHOLE: is_whole,
        _REAL: is_whole or pd.api.types.is_float_dtype(column.dtype),
        None: is_text or is_whole,
    }
    if not fits[kind]:
        allowed = kind or "text or whole numbers"
        raise DataError(f"{path}: column {column.name} holds {column.dtype}; it must hold {allowed}.")
    if column.name not in _MAY_BE_MISSING and column.isna().any():
        row = int(column.isna().to_numpy().argmax())
        raise DataError(f"{path}: column {column.name} is empty in row {row}; it needs a value everywhere.")


def _further_columns(slices: pd.DataFrame) -> dict[str, pd.Series]:
    """The dataset's own columns, renamed where a name is taken, with one type per column."""
    reserved = {*COLUMNS, CALIBRATED_COLUMN}
    further: dict[str, pd.Series] = {}
    for position, name in enumerate(map(str, slices.columns)):
        free = name
        while free in reserved or free in further or (free != name and free in slices):
            free = f"data_{free}"
        column = slices.iloc[:, position].reset_index(drop=True)
        # A labels file can mix numbers and text in a column, but a parquet column has one type.
        if pd.api.types.infer_dtype(column, skipna=True).startswith("mixed"):
            column = column.map(str, na_action="ignore")
        further[free] = column
    return further
