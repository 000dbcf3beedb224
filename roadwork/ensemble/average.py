"""Predictions averaged over runs: the mean of their logits, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from roadwork.errors import DataError
from roadwork.evaluation.predictions import CALIBRATED_COLUMN, softmax_roadwork

LOGITS = ["logit_none", "logit_roadwork"]


def average_predictions(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """A predictions table in the first one's order, with its further columns and the mean logits of all.

    Args:
        frames: predictions tables of the same rows, in any order.

    Raises:
        DataError: a row is missing in one, is in it twice, or has another split or label there.
    """
    first = frames[0].drop(columns=CALIBRATED_COLUMN, errors="ignore").reset_index(drop=True)
    ordered = [_in_order_of(first, frame) for frame in frames]
    logits = np.mean([frame[LOGITS].to_numpy(np.float64) for frame in ordered], axis=0)
    columns = {name: logits[:, place] for place, name in enumerate(LOGITS)}
    return first.assign(**columns, probability=softmax_roadwork(logits))


def _in_order_of(first: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    if frame["id"].duplicated().any():
        raise DataError(f"{frame.loc[frame['id'].duplicated(), 'id'].iloc[0]} is predicted twice. Evaluate it again.")
    by_id = frame.set_index("id")
    missing = sorted(set(first["id"]) ^ set(by_id.index))
    if missing:
        raise DataError(f"{len(missing)} rows are predicted by one run alone, first {missing[0]}. Evaluate each again.")
    ordered = by_id.loc[first["id"]].reset_index()
    for name in ("split", "label"):
        apart = (ordered[name] != first[name]).to_numpy()
        if apart.any():
            row = int(apart.argmax())
            raise DataError(
                f"{name} of {first['id'][row]} is {first[name][row]} in one run and {ordered[name][row]} in another: "
                "they are of different data. Evaluate each again."
            )
    return ordered
