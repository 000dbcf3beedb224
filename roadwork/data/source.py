"""Filters that leave rows out of a dataset before anything else sees it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from roadwork.core.errors import ConfigError, DataError, SplitError
from roadwork.core.files import cache_folder
from roadwork.core.progress import new_progress
from roadwork.data.grouping.groups import Groups
from roadwork.data.grouping.near_duplicates import image_hashes
from roadwork.data.huggingface import read_huggingface
from roadwork.data.images import FileImages, ImageEnds, ImageSource
from roadwork.data.label_corrections import apply_label_corrections
from roadwork.data.local import read_local
from roadwork.data.mixed_datasets import add_extra, pairs_with_originals
from roadwork.data.splitting.splits import Splits, make_splits, read_splits
from roadwork.data.splitting.train_only import (
    check_names_extra,
    find_duplicates,
    make_groups_of_split_rows,
    place_train_only,
)
from roadwork.data.table import SampleTable
from roadwork.demo import generate_demo_data
from roadwork.settings import DataSettings, Settings

logger = logging.getLogger(__name__)

DESCRIPTION_COLUMN = "scene_description"
DEMO_ROOT = Path("data/demo")


@dataclass(frozen=True)
class SelectedImages:
    """The images of some rows of a source.

    Attributes:
        source: of all rows.
        rows: (N,) positions in it.
    """

    source: ImageSource
    rows: np.ndarray

    def read(self, row: int) -> bytes:
        return self.source.read(int(self.rows[row]))

    def read_ends(self, row: int) -> ImageEnds:
        return self.source.read_ends(int(self.rows[row]))


def select_images(source: ImageSource, rows: np.ndarray) -> ImageSource:
    """The images of these rows (N,); files stay `FileImages`, which are known again by their time of change."""
    if isinstance(source, FileImages):
        return FileImages([source.paths[row] for row in rows.tolist()])
    return SelectedImages(source, rows)


def keep_streetvision_rows(table: SampleTable, source: ImageSource) -> tuple[SampleTable, ImageSource]:
    """The rows that the StreetVision validator keeps: Roadwork with a `scene_description`, and None without one.

    A description of spaces alone is none. A note of the table says how many rows were left out.

    Raises:
        DataError: there is no such column, or no row is left.
    """
    columns = list(map(str, table.slices.columns))
    if DESCRIPTION_COLUMN not in columns:
        raise DataError(
            f"data.row_filter is streetvision, which needs a column {DESCRIPTION_COLUMN}. Beside those that are "
            f"used otherwise, the data has {', '.join(columns) or 'none'}. Leave it at none, or rename yours."
        )
    descriptions = table.slices[DESCRIPTION_COLUMN]
    is_described = (descriptions.notna() & (descriptions.astype(str).str.strip() != "")).to_numpy(dtype=bool)
    is_roadwork = table.labels == 1
    kept = np.flatnonzero(is_described == is_roadwork)
    left_out = (
        f"{np.sum(is_roadwork & ~is_described):,} Roadwork without, {np.sum(~is_roadwork & is_described):,} None with"
    )
    if not len(kept):
        raise DataError(
            f"data.row_filter=streetvision leaves none of {len(table):,} rows ({left_out} a {DESCRIPTION_COLUMN}). "
            "Set it to none."
        )
    note = (
        f"data.row_filter=streetvision leaves out {len(table) - len(kept):,} of {len(table):,} rows: "
        f"{left_out} a {DESCRIPTION_COLUMN}."
    )
    chosen = table.take(kept)
    return replace(chosen, notes=(*table.notes, note)), select_images(source, kept)


def read_dataset(data: DataSettings) -> tuple[SampleTable, ImageSource]:
    """The table and the images that `data.mode` names and `data.row_filter` keeps, `data.label_corrections` mended.

    Makes the demo data on the shipped default's first use.

    Raises:
        DataError: the dataset, or the file of corrections, cannot be used.
    """
    table, source = _read_as_it_is(data)
    if data.row_filter == "streetvision":
        table, source = keep_streetvision_rows(table, source)
    table, source = add_extra(data, table, source)
    if data.label_corrections is None:
        return table, source
    return apply_label_corrections(table, Path(data.label_corrections), data.class_names), source


def _read_as_it_is(data: DataSettings) -> tuple[SampleTable, ImageSource]:
    if data.mode == "huggingface":
        return read_huggingface(data.hub.name, data.hub.split, data.columns, data.class_names)
    root = Path(data.root)
    if root == DEMO_ROOT and not root.exists() and "ROADWORK_DATA" not in os.environ:
        logger.info(
            "data.root is the shipped default %s, which is not there yet: making the demo data (synthetic scenes).",
            root,
        )
        make_demo_data(root)
    return read_local(root, data.columns, data.class_names)


def make_demo_data(root: Path, **options: Any) -> None:
    """Generates the demo dataset into `root` with a progress bar."""
    with new_progress() as progress:
        task = progress.add_task("Drawing demo scenes", total=None)
        summary = generate_demo_data(
            root, on_progress=lambda done, total: progress.update(task, completed=done, total=total), **options
        )
    cities = ", ".join(f"{city} {rows:,}" for city, rows in summary.cities.items())
    logger.info(
        "%s: %s synthetic scenes, %s with roadwork, in %s sequences (%s). %s rows lack GPS, %s have it as text.",
        *(root, summary.images, summary.positives, summary.sequences, cities),
        *(summary.rows_without_gps, summary.rows_with_text_gps),
    )


def dataset_key(data: DataSettings) -> str:
    """16 hexadecimal digits that name a dataset in the cache folder: of its folder, or of its name and split.

    With those of `data.extra` and their names, whatever their order.
    """
    name = str(Path(data.root).resolve()) if data.mode == "local" else f"{data.hub.name}:{data.hub.split}"
    for extra in sorted(data.extra, key=lambda extra: extra.dataset_name):
        where = str(Path(extra.root).resolve()) if extra.root is not None else f"{extra.hub}"
        name += f"\n{extra.dataset_name}\n{where}"
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def splits_path(settings: Settings) -> Path:
    """Where `roadwork split` writes: `data.splits_file`, else beside the local data, else the output folder."""
    if settings.data.splits_file:
        return Path(settings.data.splits_file)
    folder = Path(settings.data.root) if settings.data.mode == "local" else Path(settings.output_dir)
    return folder / "splits.json"


def splits_files(settings: Settings) -> list[Path]:
    """The files that may hold the splits, in the order in which they are looked for."""
    first = splits_path(settings)
    return [first] if settings.data.splits_file else [first, Path(settings.output_dir) / "splits.json"]


def check_may_replace(path: Path) -> None:
    """Whether `roadwork split` may write to `path`: its own files come back from their seed, a user's do not.

    Raises:
        SplitError: a file is there that `roadwork split` has not made.
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


def find_groups(data: DataSettings, table: SampleTable, source: ImageSource) -> Groups:
    """What must not be separated, from sequences, positions, perceptual hashes, and what was made from what.

    The images are hashed once; the hashes are kept in the user's cache folder.
    """
    splitting = data.splitting
    duplicates = pairs_with_originals(data, table)
    if splitting.near_duplicates:
        cache = cache_folder() / "image-hashes" / f"{dataset_key(data)}.npz"
        alike = find_duplicates(table, image_hashes(source, table.ids, cache))
        duplicates = np.unique(np.concatenate([duplicates, alike]), axis=0)
    groups = make_groups_of_split_rows(
        table, buffer_km=splitting.buffer_km, max_group_share=splitting.max_group_share, duplicates=duplicates
    )
    return replace(groups, set_aside=groups.set_aside | np.isin(table.ids, list(table.dropped_ids)))


def find_splits(settings: Settings, table: SampleTable, groups: Groups) -> Splits:
    """The splits on disk (`data.splits_file`, `<root>/splits.json`, `outputs/splits.json`), else new ones, not written.

    Rows of `data.extra` that are only trained on are in train, or set aside where they would leak.

    Raises:
        ConfigError: a `data.splits_file` that is not there.
        SplitError: a file that does not fit the data, or data that cannot be split.
    """
    data = settings.data
    splits = read_existing_splits(settings, table)
    if splits is None:
        splits = make_splits(table, groups, data.splits, data.splitting)
    else:
        _say_what_differs(splits, data)
    return place_train_only(splits, table, groups)


def read_existing_splits(settings: Settings, table: SampleTable) -> Splits | None:
    """The splits on disk, or None where there are none; they are not checked yet.

    Raises:
        ConfigError: a `data.splits_file` that is not there.
        SplitError: a file that does not fit the data.
    """
    named = settings.data.splits_file
    if named and not Path(named).is_file():
        raise ConfigError(f"data.splits_file is {named}, which is not there. Run `roadwork split`, or leave it null.")
    existing = next((path for path in splits_files(settings) if path.is_file()), None)
    if existing is None:
        return None
    splits = read_splits(existing, table, settings.data.class_names)
    check_names_extra(splits, table, settings.data)
    return splits


def require_existing_splits(settings: Settings, table: SampleTable) -> Splits:
    """The splits on disk.

    Raises:
        ConfigError: a `data.splits_file` that is not there.
        SplitError: there are none, or they do not fit the data.
    """
    splits = read_existing_splits(settings, table)
    if splits is None:
        files = " or ".join(dict.fromkeys(map(str, splits_files(settings))))
        raise SplitError(
            f"There is no splits file at {files}. "
            "Run `roadwork split` to make one, or name yours with data.splits_file=FILE."
        )
    return splits


def _say_what_differs(splits: Splits, data: DataSettings) -> None:
    """Warns where a file of ours was made with other settings than the configuration's."""
    if not splits.is_ours:
        return
    for what, made_with, key, configured in (
        ("ratios", dict(splits.ratios), "data.splits", dict(data.splits)),
        ("strategy", splits.strategy, "data.splitting.strategy", data.splitting.strategy),
        ("buffer of km", splits.buffer_km, "data.splitting.buffer_km", data.splitting.buffer_km),
    ):
        if made_with != configured:
            logger.warning(
                "%s was made with the %s %s, %s says %s: the file counts. Run `roadwork split` to change it.",
                *(splits.source, what, made_with, key, configured),
            )
