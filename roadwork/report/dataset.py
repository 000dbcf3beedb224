"""The data of a run as it is today, where it is still there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadwork.data.images import ImageSource
from roadwork.data.source import read_dataset
from roadwork.data.splits_file import read_splits
from roadwork.data.table import SampleTable
from roadwork.errors import RoadworkError
from roadwork.report.run_files import RunFiles


@dataclass(frozen=True)
class RunData:
    """The dataset that a run was trained on.

    Attributes:
        table: N rows.
        source: their photos.
        splits: (N,) split of each row, empty where it is in none.
        is_unchanged: whether rows, labels and positions are still those of the training; None where that is not known.
    """

    table: SampleTable
    source: ImageSource
    splits: np.ndarray
    is_unchanged: bool | None


def open_data(run: RunFiles) -> RunData | str:
    """A run's data, or a sentence on why it cannot be read. No demo data is made for it."""
    data = run.settings.data
    if data.mode == "local" and not Path(data.root).is_dir():
        return (
            f"The data is no longer at {data.root}, seen from {Path.cwd()}: call roadwork report from where the run "
            "was trained, or name the folder with data.root=FOLDER."
        )
    try:
        table, source = read_dataset(data)
        splits = read_splits(run.folder / "splits.json", table, data.class_names).names_by_row(table)
    except (RoadworkError, OSError) as error:
        return f"The data cannot be read: {error}"
    trained_on = run.manifest.get("data_fingerprint")
    return RunData(table, source, splits, None if trained_on is None else trained_on == table.fingerprint())
