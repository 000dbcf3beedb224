"""Further datasets (`data.extra`) that training mixes with the main one."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from roadwork.core.errors import ConfigError, DataError
from roadwork.data.huggingface import read_huggingface
from roadwork.data.images import ImageSource, stack_images
from roadwork.data.local import read_local
from roadwork.data.samplers.weights import Mixture
from roadwork.data.table import ExtraRows, SampleTable, column_text, find_slice_column
from roadwork.settings import ORIGINS, DataSettings, ExtraDatasetSettings

logger = logging.getLogger(__name__)


# The columns of `SampleTable.slices` with a row's origin (real or generated) and its dataset's name.
ORIGIN, SOURCE = "origin", "source"
_SHOWN = 5


def add_extra(data: DataSettings, table: SampleTable, source: ImageSource) -> tuple[SampleTable, ImageSource]:
    """The rows of the main dataset, then of each of `data.extra`, and the images of all.

    The slices gain the columns `origin` (`real` or `generated`) and `source` (a dataset's name). A real main dataset
    without mixed datasets is returned unchanged.

    Args:
        data: the settings.
        table: the table of the main dataset.
        source: the images of the main dataset.

    Raises:
        ConfigError: a dataset's name would give two rows the same id.
        DataError: one of the datasets cannot be used.
    """
    if not data.extra and data.origin == ORIGINS[0]:
        return table, source
    read = [_read(extra, f"data.extra[{number}]", data.class_names) for number, extra in enumerate(data.extra)]
    for extra in data.extra:
        _check_prefix(extra.dataset_name, table.ids)
    tables = [_with_origin(table, data.dataset_name, data.origin)]
    tables += [
        _with_origin(_prefixed(part, extra.dataset_name), extra.dataset_name, extra.origin)
        for extra, (part, _) in zip(data.extra, read, strict=True)
    ]
    train_only = [part.ids for extra, part in zip(data.extra, tables[1:], strict=True) if extra.is_train_only]
    stacked = SampleTable(
        ids=np.concatenate([part.ids for part in tables]),
        filenames=np.concatenate([part.filenames for part in tables]),
        labels=np.concatenate([part.labels for part in tables]),
        gps=np.concatenate([part.gps for part in tables]),
        sequence_ids=np.concatenate([part.sequence_ids for part in tables]),
        slices=_stack([part.slices for part in tables]),
        notes=(*table.notes, *(_note(*each) for each in zip(data.extra, tables[1:], strict=True))),
        extra=ExtraRows(
            frozenset(row_id for part in tables[1:] for row_id in part.ids),
            frozenset(row_id for ids in train_only for row_id in ids),
        )
        if data.extra
        else None,
    )
    return stacked, stack_images([source, *(images for _, images in read)], [len(part) for part in tables])


def find_mixture(data: DataSettings, table: SampleTable, rows: np.ndarray) -> Mixture | None:
    """The datasets of these (n,) rows with their shares and weights; None if the settings have no share or weight."""
    if all(extra.share is None and extra.weight == 1 for extra in data.extra):
        return None
    names = [data.dataset_name, *(extra.dataset_name for extra in data.extra)]
    return Mixture(
        tuple(names),
        pd.Categorical(table.slices[SOURCE].iloc[rows], categories=names).codes.astype(np.int64),
        (None, *(extra.share for extra in data.extra)),
        (1.0, *(extra.weight for extra in data.extra)),
    )


def _read(extra: ExtraDatasetSettings, key: str, main_names: Mapping[str, int]) -> tuple[SampleTable, ImageSource]:
    """The table and the images of a dataset; errors name its own keys.

    Raises:
        DataError: it cannot be used.
    """
    names = main_names if extra.class_names is None else extra.class_names
    if extra.root is not None and not Path(extra.root).is_dir():
        raise DataError(f"{key}.root is {extra.root}, which is not a folder. Name the dataset's folder there.")
    try:
        if extra.root is not None:
            return read_local(Path(extra.root), extra.columns, names, key=key)
        if extra.hub is None:  # refused by the settings
            raise ConfigError(f"{key} has neither root nor hub. Set one of them.")
        return read_huggingface(extra.hub.name, extra.hub.split, extra.columns, names, key=key)
    except DataError as error:
        raise DataError(f"{key} ({extra.dataset_name}): {error}") from error


def _check_prefix(name: str, main_ids: np.ndarray) -> None:
    taken = next((row_id for row_id in main_ids if str(row_id).startswith(f"{name}/")), None)
    if taken is not None:
        raise ConfigError(
            f"data.extra has a dataset named {name!r}, whose ids would start with {name + '/'!r}, like {taken!r} "
            "of the main dataset. Give it another `name`."
        )


def _prefixed(table: SampleTable, name: str) -> SampleTable:
    """The table with the dataset's name as a prefix of ids, file names and sequences."""

    def prefix(values: np.ndarray) -> np.ndarray:
        return np.array([f"{name}/{value}" if value else "" for value in values], dtype=object)

    return replace(
        table,
        ids=prefix(table.ids),
        filenames=prefix(table.filenames),
        sequence_ids=prefix(table.sequence_ids),
    )


def _with_origin(table: SampleTable, name: str, origin: str) -> SampleTable:
    """The table with the columns `origin` and `source`; the dataset's own columns of these names are renamed.

    Raises:
        DataError: the dataset's own column `origin` has unknown values beside `real` and `generated`.
    """
    slices = table.slices
    origins = np.full(len(table), origin, dtype=object)
    if ORIGIN in slices:
        own = np.array([text.lower() for text in column_text(slices[ORIGIN])], dtype=object)
        is_known = np.isin(own, ORIGINS)
        if is_known.any():
            _check_origins(table, own, is_known, name)
            origins[is_known] = own[is_known]
            slices = slices.drop(columns=ORIGIN)
    new = pd.DataFrame({ORIGIN: origins, SOURCE: np.full(len(table), name, dtype=object)})
    kept = slices.rename(columns={taken: _free_name(taken, slices) for taken in (ORIGIN, SOURCE) if taken in slices})
    return replace(table, slices=pd.concat([new, kept], axis=1))


def _check_origins(table: SampleTable, own: np.ndarray, is_known: np.ndarray, name: str) -> None:
    wrong = np.flatnonzero(~is_known & (own != ""))
    if len(wrong):
        shown = "; ".join(f"{table.ids[row]}: {own[row]!r}" for row in wrong[:_SHOWN])
        raise DataError(
            f"{name}: the column `origin` is {' or '.join(ORIGINS)} in some rows, and something else in "
            f"{len(wrong):,}, first {shown}. Allowed: {', '.join(ORIGINS)}, or empty for the configured origin."
        )


def _free_name(name: str, frame: pd.DataFrame) -> str:
    while name in frame:
        name = f"data_{name}"
    return name


def _stack(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all frames; a column that a frame lacks is empty in its rows."""
    columns = dict.fromkeys(column for frame in frames for column in frame)
    stacked = {}
    for column in columns:
        # As objects, so that the result does not depend on the type that pandas gives empty columns.
        parts = [frame[column].astype(object) if column in frame else [None] * len(frame) for frame in frames]
        stacked[column] = pd.Series(np.concatenate([np.asarray(part, dtype=object) for part in parts])).infer_objects()
    return pd.DataFrame(stacked)


def _note(extra: ExtraDatasetSettings, table: SampleTable) -> str:
    generated = int((table.slices[ORIGIN] == ORIGINS[1]).sum())
    drawn = f"{extra.share:.0%} of the training draws" if extra.share is not None else f"weight {extra.weight:g}"
    where = "used for training only" if extra.is_train_only else "split with the main dataset's rows"
    return f"Mixed in: {extra.dataset_name}, {generated:,} of its rows generated, {drawn}, {where}. {table.notes[0]}"


def pairs_with_originals(data: DataSettings, table: SampleTable) -> np.ndarray:
    """(P, 2) int64 row pairs: generated images and the photos that they were made from (`generated_from`).

    An original is named by its id, its file name, or the last part of that; all rows with the name count. Images made
    from the same photo are paired with each other if the photo is not in the data.

    Raises:
        ConfigError: a dataset has no such column.
        DataError: no image of a dataset has its original in the data.
    """
    named = [extra for extra in data.extra if extra.generated_from is not None]
    if not named:
        return np.empty((0, 2), dtype=np.int64)
    known = _rows_by_name(table)
    pairs: list[tuple[int, int]] = []
    for extra in named:
        key = f"data.extra ({extra.dataset_name}).generated_from"
        values = column_text(find_slice_column(table, key, str(extra.generated_from)))
        made_from: dict[str, list[int]] = defaultdict(list)
        for row in np.flatnonzero((table.slices[SOURCE] == extra.dataset_name).to_numpy() & (values != "")).tolist():
            made_from[values[row]].append(row)
        originals = {name: known.get(name) or known.get(_last_part(name), []) for name in made_from}
        _check_originals(key, originals, table)
        for name, rows in made_from.items():
            pairs += [(min(pair), max(pair)) for row in rows for pair in _pairs(row, originals[name] or rows[:1])]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _pairs(row: int, others: list[int]) -> list[tuple[int, int]]:
    return [(row, other) for other in others if other != row]


def _rows_by_name(table: SampleTable) -> dict[str, list[int]]:
    """The main dataset's rows by id, file name, and last part of the file name."""
    known: dict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(~table.is_extra).tolist():
        row_id, filename = str(table.ids[row]), str(table.filenames[row])
        for name in {row_id, filename, _last_part(filename)} - {""}:
            known[name].append(row)
    return known


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


def _check_originals(key: str, originals: dict[str, list[int]], table: SampleTable) -> None:
    unknown = [name for name, rows in originals.items() if not rows]
    if not unknown:
        return
    shown = ", ".join(map(repr, unknown[:_SHOWN]))
    if len(unknown) == len(originals):
        raise DataError(
            f"{key}: none of its {len(originals):,} originals is in the main dataset, first {shown}. "
            f"Allowed: the main dataset's ids (such as {table.ids[0]!r}) or file names, or empty. "
            "Fix the column, or set generated_from to null."
        )
    logger.warning(
        "%s: %s of %s originals are not in the main dataset, first %s. Images of the same one stay in one split.",
        *(key, f"{len(unknown):,}", f"{len(originals):,}", shown),
    )
