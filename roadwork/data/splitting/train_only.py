"""Rows of `data.extra` and splits files: those only trained on stay out of them, and out of train where they leak."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pandas as pd

from roadwork.core.errors import SplitError
from roadwork.data.grouping.groups import Groups, make_groups, pairs_within, sequence_groups
from roadwork.data.grouping.near_duplicates import ImageHashes, find_near_duplicates
from roadwork.data.grouping.proximity import component_labels
from roadwork.data.mixed_datasets import SOURCE
from roadwork.data.splitting.leaks import Neighbours
from roadwork.data.splitting.splits import Splits
from roadwork.data.table import SampleTable
from roadwork.settings import DataSettings

logger = logging.getLogger(__name__)

_TRAIN = "train"
_SHOWN = 5


def find_duplicates(table: SampleTable, hashes: ImageHashes) -> np.ndarray:
    """(P, 2) int64 row pairs of near-duplicates; those among the rows to split hang together without train-only rows.

    Of a crowd of images alike only a chain of pairs is given, which could run through a train-only row.
    """
    found = find_near_duplicates(table, hashes)
    inside = np.flatnonzero(~table.is_train_only)
    if len(inside) == len(table):
        return found
    own = ImageHashes(hashes.keys[inside], hashes.hashes[inside], hashes.thumbnails[inside], hashes.known[inside])
    return np.unique(np.concatenate([found, inside[find_near_duplicates(table.take(inside), own)]]), axis=0)


def make_groups_of_split_rows(
    table: SampleTable, *, buffer_km: float, max_group_share: float, duplicates: np.ndarray
) -> Groups:
    """`make_groups` of the rows that splits are made for; train-only rows have a group by sequence and duplicates.

    So the groups of the others, and splits made from them, are the same with and without train-only rows. Those are
    held to the splits by `place_train_only`.
    """
    outside = table.is_train_only
    if not outside.any():
        return make_groups(table, buffer_km=buffer_km, max_group_share=max_group_share, duplicates=duplicates)
    groups = make_groups(
        table.take(~outside),
        buffer_km=buffer_km,
        max_group_share=max_group_share,
        duplicates=pairs_within(duplicates, ~outside),
    )
    names = sequence_groups(table)
    names[~outside] = groups.names
    set_aside = np.zeros(len(table), dtype=bool)
    set_aside[~outside] = groups.set_aside
    units = _scene_units(table, duplicates[outside[duplicates].all(axis=1)])
    names[outside] = pd.Series(names[outside]).groupby(units[outside]).transform("min").to_numpy()
    return Groups(names, set_aside, duplicates, buffer_km, groups.notes)


def place_train_only(splits: Splits, table: SampleTable, groups: Groups) -> Splits:
    """The splits with the train-only rows that they do not name: in `train`, or set aside where that would leak.

    A row leaks that shows a scene of another split's rows, or lies within the buffer of one; and so do the rows of its
    sequence, and of its own scene.

    Raises:
        SplitError: a splits file has such a row elsewhere than in train.
    """
    outside = table.is_train_only
    if not outside.any():
        return splits
    names = splits.names_by_row(table)
    _check_assignment(splits, table, names)
    new = outside & ~np.isin(table.ids, [*(row_id for ids in splits.ids.values() for row_id in ids), *splits.set_aside])
    new &= ~np.isin(table.ids, list(table.dropped_ids))
    trial = np.where(new, _TRAIN, names)
    buffer_km = groups.buffer_km if splits.buffer_km is None else splits.buffer_km
    elsewhere = ~np.isin(trial, ["", _TRAIN])
    is_close = outside & (Neighbours(table, trial).km < buffer_km)
    units = _scene_units(table, groups.duplicates)
    leaking = new & np.isin(units, units[elsewhere | is_close])
    if leaking.any():
        _log_set_aside(table, new, leaking, buffer_km)
    dropped = outside & ~new & (names == "") & ~np.isin(table.ids, list(splits.set_aside))
    return replace(
        splits,
        ids={**splits.ids, _TRAIN: [*splits.ids[_TRAIN], *table.ids[new & ~leaking].tolist()]},
        set_aside=[*splits.set_aside, *table.ids[leaking | dropped].tolist()],
    )


def check_names_extra(splits: Splits, table: SampleTable, data: DataSettings) -> None:
    """Whether a file was made with the datasets whose rows it should split.

    Raises:
        SplitError: it names no row of one of them.
    """
    named = {row_id for ids in splits.ids.values() for row_id in ids}
    if splits.strategy:  # in a user's own file, set aside means no more than that a row is not named
        named |= set(splits.set_aside)
    for extra in data.extra:
        if not extra.is_train_only and named.isdisjoint(table.ids[table.slices[SOURCE] == extra.dataset_name]):
            raise SplitError(
                f"{splits.source} names no row of {extra.dataset_name}: it was made without this dataset of "
                "data.extra. Run `roadwork split` to split its rows with the others (the others may change places), or "
                "set its `splits: train` to only train on it and keep the file as it is."
            )


def _scene_units(table: SampleTable, duplicates: np.ndarray) -> np.ndarray:
    """(N,) number of each row's unit: rows of one sequence or scene."""
    sequences, names = pd.factorize(sequence_groups(table))
    units: np.ndarray = component_labels(len(names), sequences[duplicates])[sequences]
    return units


def _check_assignment(splits: Splits, table: SampleTable, names: np.ndarray) -> None:
    wrong = np.flatnonzero(table.is_train_only & ~np.isin(names, ["", _TRAIN]))
    if len(wrong):
        raise SplitError(
            f"{splits.source} has {len(wrong):,} rows of data.extra in other splits than train, first "
            f"{table.ids[wrong[0]]!r} in {names[wrong[0]]}, and data.extra says `splits: train` of their dataset. "
            "Set `splits` to null there, or run `roadwork split`."
        )


def _log_set_aside(table: SampleTable, new: np.ndarray, leaking: np.ndarray, buffer_km: float) -> None:
    shown = ", ".join(map(str, table.ids[leaking][:_SHOWN]))
    logger.warning(
        "%s of %s rows of data.extra that are only trained on are set aside: they, or rows of their sequence or scene, "
        "show what a row of another split shows, or lie within %g km of one (first %s).",
        *(f"{leaking.sum():,}", f"{new.sum():,}", buffer_km, shown),
    )
