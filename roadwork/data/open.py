"""Opens the dataset of a configuration: its table, images, groups and splits."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from roadwork.core.errors import ConfigError, SplitError
from roadwork.core.files import cache_folder
from roadwork.data.grouping.groups import Groups
from roadwork.data.grouping.near_duplicates import ImageHashes, image_hashes
from roadwork.data.images import ImageSource, UnreadableImageError
from roadwork.data.mixed_datasets import pairs_with_originals
from roadwork.data.source import dataset_key, read_dataset
from roadwork.data.splitting.check import SplitReport, check_splits
from roadwork.data.splitting.splits import Splits, make_splits, read_splits
from roadwork.data.splitting.train_only import (
    check_names_extra,
    find_duplicates,
    make_groups_of_split_rows,
    place_train_only,
)
from roadwork.data.table import SampleTable
from roadwork.settings import DataSettings, Settings

logger = logging.getLogger(__name__)

_MAX_COMPARED = 1000  # pairs whose bytes are compared


def open_dataset(settings: Settings) -> Dataset:
    """The dataset of a configuration. Only its table is read now; groups and splits follow on first use.

    Raises:
        DataError: the dataset, or the file of label corrections, cannot be used.
    """
    return Dataset(settings, *read_dataset(settings.data))


@dataclass(frozen=True)
class Dataset:
    """A dataset, opened.

    Attributes:
        settings: the configuration.
        table: the metadata of N rows.
        source: the images of the rows.
    """

    settings: Settings
    table: SampleTable
    source: ImageSource

    @cached_property
    def groups(self) -> Groups:
        """The rows that no split may separate; comparing the images takes a while the first time."""
        return find_groups(self.settings.data, self.table, self.source)

    @cached_property
    def splits(self) -> Splits:
        """The splits on disk, else new ones, not written; see `find_splits` for the errors."""
        return find_splits(self.settings, self.table, self.groups)

    @cached_property
    def report(self) -> SplitReport:
        """Sizes, leaks and distances of the splits.

        Raises:
            SplitError: the splits cannot be used.
        """
        return check_splits(self.splits, self.table, self.groups)

    @cached_property
    def split_names(self) -> np.ndarray:
        """(N,) the split of each row, empty for rows set aside."""
        return self.splits.names_by_row(self.table)

    def require_existing_splits(self) -> Splits:
        """The splits on disk, without comparing any image.

        Raises:
            ConfigError: `data.splits_file` does not exist.
            SplitError: there are none, or they do not fit the data.
        """
        splits = read_existing_splits(self.settings, self.table)
        if splits is None:
            files = " or ".join(dict.fromkeys(map(str, splits_files(self.settings))))
            raise SplitError(
                f"There is no splits file at {files}. "
                "Run `roadwork split` to make one, or name yours with data.splits_file=FILE."
            )
        return splits


def find_groups(data: DataSettings, table: SampleTable, source: ImageSource) -> Groups:
    """The groups of rows that no split may separate.

    Rows belong together by sequence, by position, by perceptual hash, and by `generated_from`. Images are hashed once;
    the hashes are kept in the user's cache folder.
    """
    splitting = data.splitting
    duplicates = pairs_with_originals(data, table)
    if splitting.near_duplicates:
        alike = find_duplicates(table, hash_images(data, table, source))
        _warn_of_contradictions(table, source, alike[~_contains(duplicates, alike)])
        duplicates = np.unique(np.concatenate([duplicates, alike]), axis=0)
    groups = make_groups_of_split_rows(
        table, buffer_km=splitting.buffer_km, max_group_share=splitting.max_group_share, duplicates=duplicates
    )
    return replace(groups, set_aside=groups.set_aside | np.isin(table.ids, list(table.dropped_ids)))


def _contains(pairs: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(P,) bool: whether `pairs` contains each pair of `wanted` (P, 2)."""
    known = set(map(tuple, pairs.tolist()))
    return np.fromiter((pair in known for pair in map(tuple, wanted.tolist())), bool, len(wanted))


def _warn_of_contradictions(table: SampleTable, source: ImageSource, alike: np.ndarray) -> None:
    """Warns of photos under both labels: `alike` (P, 2) are row pairs of near-duplicates.

    Generated photos and their originals are not among them: they may differ on purpose.
    """
    pairs = alike[table.labels[alike[:, 0]] != table.labels[alike[:, 1]]]
    if not len(pairs):
        return
    compared = pairs[:_MAX_COMPARED].tolist()
    same = [pair for pair in compared if _same_bytes(source, *pair)]
    first, second = (same or compared)[0]
    logger.warning(
        "%s pairs of near-duplicate photos have different labels; of the first %s, %s have the same bytes. Example: %s "
        "is %s and %s is %s. Check the labels of both.",
        *(f"{len(pairs):,}", f"{len(compared):,}", len(same)),
        *(table.ids[first], table.labels[first], table.ids[second], table.labels[second]),
    )


def _same_bytes(source: ImageSource, first: int, second: int) -> bool:
    try:
        return source.read_ends(first) == source.read_ends(second) and source.read(first) == source.read(second)
    except UnreadableImageError:
        return False


def hash_images(data: DataSettings, table: SampleTable, source: ImageSource) -> ImageHashes:
    """The perceptual hashes of a dataset, computed once and kept in the user's cache folder."""
    return image_hashes(source, table.ids, cache_folder() / "image-hashes" / f"{dataset_key(data)}.npz")


def find_splits(settings: Settings, table: SampleTable, groups: Groups) -> Splits:
    """The splits on disk (`data.splits_file`, `<root>/splits.json`, `outputs/splits.json`), else new ones, not written.

    Train-only rows of `data.extra` are in train, or set aside if they would leak.

    Raises:
        ConfigError: `data.splits_file` does not exist.
        SplitError: the file does not fit the data, or the data cannot be split.
    """
    data = settings.data
    splits = read_existing_splits(settings, table)
    if splits is None:
        splits = make_splits(table, groups, data.splits, data.splitting)
    else:
        _warn_of_other_settings(splits, data)
    return place_train_only(splits, table, groups)


def read_existing_splits(settings: Settings, table: SampleTable) -> Splits | None:
    """The splits on disk, not yet checked for leaks; None if there are none.

    Raises:
        ConfigError: `data.splits_file` does not exist.
        SplitError: the file does not fit the data.
    """
    named = settings.data.splits_file
    if named and not Path(named).is_file():
        raise ConfigError(f"data.splits_file is {named}, which is not there. Run `roadwork split`, or set it to null.")
    existing = next((path for path in splits_files(settings) if path.is_file()), None)
    if existing is None:
        return None
    splits = read_splits(existing, table, settings.data.class_names)
    check_names_extra(splits, table, settings.data)
    return splits


def splits_path(settings: Settings) -> Path:
    """Where `roadwork split` writes: `data.splits_file`, else beside the local data, else the output folder."""
    if settings.data.splits_file:
        return Path(settings.data.splits_file)
    folder = Path(settings.data.root) if settings.data.mode == "local" else Path(settings.output_dir)
    return folder / "splits.json"


def splits_files(settings: Settings) -> list[Path]:
    """The files that may hold the splits, in search order."""
    first = splits_path(settings)
    return [first] if settings.data.splits_file else [first, Path(settings.output_dir) / "splits.json"]


def check_may_replace(path: Path) -> None:
    """Refuses to overwrite a user's own splits; those of `roadwork split` can be made again from their seed.

    Raises:
        SplitError: `roadwork split` did not write the existing file.
    """
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or not content.get("fingerprint"):
        raise SplitError(
            f"{path} was not made by `roadwork split`, so it is not overwritten. "
            "Move it away first, or write elsewhere with data.splits_file=FILE."
        )


def _warn_of_other_settings(splits: Splits, data: DataSettings) -> None:
    if not splits.is_ours:
        return
    for what, made_with, key, configured in (
        ("ratios", dict(splits.ratios), "data.splits", dict(data.splits)),
        ("strategy", splits.strategy, "data.splitting.strategy", data.splitting.strategy),
        ("buffer in km", splits.buffer_km, "data.splitting.buffer_km", data.splitting.buffer_km),
    ):
        if made_with != configured:
            logger.warning(
                "%s was made with the %s %s, but %s is %s. The file is used; run `roadwork split` to replace it.",
                *(splits.source, what, made_with, key, configured),
            )
