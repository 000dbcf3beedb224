"""Reads the rows of a dataset: its source, its row filter, its mixed-in datasets and its label corrections."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from roadwork.core.errors import DataError
from roadwork.core.progress import new_progress
from roadwork.data.huggingface import read_huggingface
from roadwork.data.images import FileImages, ImageEnds, ImageSource
from roadwork.data.label_corrections import apply_label_corrections
from roadwork.data.local import read_local
from roadwork.data.mixed_datasets import add_extra
from roadwork.data.table import SampleTable
from roadwork.demo import generate_demo_data
from roadwork.settings import DataSettings

logger = logging.getLogger(__name__)

DESCRIPTION_COLUMN = "scene_description"
DEMO_ROOT = Path("data/demo")


@dataclass(frozen=True)
class SelectedImages:
    """The images of some rows of a source.

    Attributes:
        source: the images of all rows.
        rows: (N,) row numbers in `source`.
    """

    source: ImageSource
    rows: np.ndarray

    def read(self, row: int) -> bytes:
        return self.source.read(int(self.rows[row]))

    def read_ends(self, row: int) -> ImageEnds:
        return self.source.read_ends(int(self.rows[row]))


def select_images(source: ImageSource, rows: np.ndarray) -> ImageSource:
    """The images of these rows (N,); stays `FileImages`, whose fingerprint is the modification time."""
    if isinstance(source, FileImages):
        return FileImages([source.paths[row] for row in rows.tolist()])
    return SelectedImages(source, rows)


def keep_streetvision_rows(table: SampleTable, source: ImageSource) -> tuple[SampleTable, ImageSource]:
    """The rows that the StreetVision validator keeps: Roadwork with a `scene_description`, and None without one.

    A blank description counts as none. A note of the table has the number of excluded rows.

    Raises:
        DataError: there is no such column, or no row remains.
    """
    columns = list(map(str, table.slices.columns))
    if DESCRIPTION_COLUMN not in columns:
        raise DataError(
            f"data.row_filter is streetvision, which needs a column {DESCRIPTION_COLUMN}. The data's further columns "
            f"are {', '.join(columns) or 'none'}. Set it to none, or rename your column."
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
        f"data.row_filter=streetvision excludes {len(table) - len(kept):,} of {len(table):,} rows: "
        f"{left_out} a {DESCRIPTION_COLUMN}."
    )
    chosen = table.take(kept)
    return replace(chosen, notes=(*table.notes, note)), select_images(source, kept)


def read_dataset(data: DataSettings) -> tuple[SampleTable, ImageSource]:
    """The table and the images of `data.mode`, after `data.row_filter`, `data.extra` and `data.label_corrections`.

    Makes the demo data on first use of the shipped default.

    Raises:
        DataError: the dataset, or the file of label corrections, cannot be used.
    """
    table, source = _read_unfiltered(data)
    if data.row_filter == "streetvision":
        table, source = keep_streetvision_rows(table, source)
    table, source = add_extra(data, table, source)
    if data.label_corrections is None:
        return table, source
    return apply_label_corrections(table, Path(data.label_corrections), data.class_names), source


def _read_unfiltered(data: DataSettings) -> tuple[SampleTable, ImageSource]:
    if data.mode == "huggingface":
        return read_huggingface(data.hub.name, data.hub.split, data.columns, data.class_names)
    root = Path(data.root)
    if root == DEMO_ROOT and not root.exists() and "ROADWORK_DATA" not in os.environ:
        logger.info(
            "data.root is the shipped default %s, which does not exist yet. Making the demo data (synthetic scenes).",
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
    """16 hexadecimal digits that identify a dataset in the cache folder, from its folder, or its name and split.

    They include the datasets of `data.extra`, in any order.
    """
    name = str(Path(data.root).resolve()) if data.mode == "local" else f"{data.hub.name}:{data.hub.split}"
    for extra in sorted(data.extra, key=lambda extra: extra.dataset_name):
        where = str(Path(extra.root).resolve()) if extra.root is not None else f"{extra.hub}"
        name += f"\n{extra.dataset_name}\n{where}"
    return hashlib.sha256(name.encode()).hexdigest()[:16]
