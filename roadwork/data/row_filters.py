"""Filters that leave rows out of a dataset before anything else sees it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from roadwork.data.images import FileImages, ImageEnds, ImageSource
from roadwork.data.table import SampleTable
from roadwork.errors import DataError

DESCRIPTION_COLUMN = "scene_description"


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
