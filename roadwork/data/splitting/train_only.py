"""Train-only rows of `data.extra`: kept out of splits files, and out of train if they would leak."""

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
from roadwork.settings.sampling import TRAIN_SPLIT

logger = logging.getLogger(__name__)

_SHOWN = 5


def find_duplicates(table: SampleTable, hashes: ImageHashes) -> np.ndarray:
    """(P, 2) int64 row pairs of near-duplicates; rows to split stay linked even without train-only rows.

    A large set of equal images is only chained by pairs, and a chain could run through a train-only row. So the rows to
    split are also searched on their own.
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
    """`make_groups` of the rows to split; train-only rows are grouped by sequence and duplicates only.

    So train-only rows change neither the other rows' groups nor the splits. `place_train_only` keeps them from leaking.
    """
    is_train_only = table.is_train_only
    if not is_train_only.any():
        return make_groups(table, buffer_km=buffer_km, max_group_share=max_group_share, duplicates=duplicates)
    groups = make_groups(
        table.take(~is_train_only),
        buffer_km=buffer_km,
        max_group_share=max_group_share,
        duplicates=pairs_within(duplicates, ~is_train_only),
    )
    names = sequence_groups(table)
    names[~is_train_only] = groups.names
    set_aside = np.zeros(len(table), dtype=bool)
    set_aside[~is_train_only] = groups.set_aside
    components = _scene_components(table, duplicates[is_train_only[duplicates].all(axis=1)])
    names[is_train_only] = (
        pd.Series(names[is_train_only]).groupby(components[is_train_only]).transform("min").to_numpy()
    )
    return Groups(names, set_aside, duplicates, buffer_km, groups.notes)


def place_train_only(splits: Splits, table: SampleTable, groups: Groups) -> Splits:
    """The splits, with the train-only rows that they do not name added to `train`, or set aside if they would leak.

    A row leaks if it, or a row of its sequence or scene, shows the scene of a row in another split or is within the
    buffer of one.

    Raises:
        SplitError: a splits file has a train-only row in another split than train.
    """
    is_train_only = table.is_train_only
    if not is_train_only.any():
        return splits
    names = splits.names_by_row(table)
    _check_assignment(splits, table, names)
    new = is_train_only & ~np.isin(
        table.ids, [*(row_id for ids in splits.ids.values() for row_id in ids), *splits.set_aside]
    )
    new &= ~np.isin(table.ids, list(table.dropped_ids))
    trial = np.where(new, TRAIN_SPLIT, names)
    buffer_km = groups.buffer_km if splits.buffer_km is None else splits.buffer_km
    elsewhere = ~np.isin(trial, ["", TRAIN_SPLIT])
    is_close = is_train_only & (Neighbours(table, trial).km < buffer_km)
    components = _scene_components(table, groups.duplicates)
    leaking = new & np.isin(components, components[elsewhere | is_close])
    if leaking.any():
        _log_set_aside(table, new, leaking, buffer_km)
    dropped = is_train_only & ~new & (names == "") & ~np.isin(table.ids, list(splits.set_aside))
    return replace(
        splits,
        ids={**splits.ids, TRAIN_SPLIT: [*splits.ids[TRAIN_SPLIT], *table.ids[new & ~leaking].tolist()]},
        set_aside=[*splits.set_aside, *table.ids[leaking | dropped].tolist()],
    )


def check_names_extra(splits: Splits, table: SampleTable, data: DataSettings) -> None:
    """Checks that a splits file covers every dataset of `data.extra` whose rows should be split.

    Raises:
        SplitError: the file names no row of one of them.
    """
    named = {row_id for ids in splits.ids.values() for row_id in ids}
    if splits.strategy:  # in a user's own file, rows set aside are just those not named
        named |= set(splits.set_aside)
    for extra in data.extra:
        if not extra.is_train_only and named.isdisjoint(table.ids[table.slices[SOURCE] == extra.dataset_name]):
            raise SplitError(
                f"{splits.source} names no row of {extra.dataset_name}: it was made without this dataset of "
                "data.extra. Run `roadwork split` to split all rows again (other rows may change splits), or "
                "set its `splits: train` to only train on it and keep the file."
            )


def _scene_components(table: SampleTable, duplicates: np.ndarray) -> np.ndarray:
    """(N,) component of each row: rows linked by sequence or near-duplicates share one."""
    sequences, names = pd.factorize(sequence_groups(table))
    components: np.ndarray = component_labels(len(names), sequences[duplicates])[sequences]
    return components


def _check_assignment(splits: Splits, table: SampleTable, names: np.ndarray) -> None:
    wrong = np.flatnonzero(table.is_train_only & ~np.isin(names, ["", TRAIN_SPLIT]))
    if len(wrong):
        raise SplitError(
            f"{splits.source} has {len(wrong):,} rows of data.extra outside train, first "
            f"{table.ids[wrong[0]]!r} in {names[wrong[0]]}, but data.extra has `splits: train` for their dataset. "
            "Set `splits` to null there, or run `roadwork split`."
        )


def _log_set_aside(table: SampleTable, new: np.ndarray, leaking: np.ndarray, buffer_km: float) -> None:
    shown = ", ".join(map(str, table.ids[leaking][:_SHOWN]))
    logger.warning(
        "%s of %s rows of data.extra (train-only) are set aside: they, or rows of their sequence or scene, are "
        "near-duplicates of rows in another split, or within %g km of one (first %s).",
        *(f"{leaking.sum():,}", f"{new.sum():,}", buffer_km, shown),
    )
