"""The dataset and its splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roadwork.core.errors import RoadworkError
from roadwork.data.images import ImageSource
from roadwork.data.open import open_dataset
from roadwork.data.splitting.splits import read_splits
from roadwork.data.table import SampleTable
from roadwork.data.utils.privacy import position_columns, round_positions
from roadwork.metrics.slices import find_region
from roadwork.report.page import Section
from roadwork.report.run_files import RunFiles
from roadwork.settings import SPLIT_NAMES
from roadwork.settings.sampling import TEST_SPLIT

_MAX_REGIONS = 15
_OTHERS = "all others"


@dataclass(frozen=True)
class RunData:
    """The dataset that a run was trained on.

    Attributes:
        table: N rows.
        source: their photos.
        splits: (N,) split of each row; empty for rows in no split.
        is_unchanged: whether rows, labels and positions are the same as in training; None if unknown.
    """

    table: SampleTable
    source: ImageSource
    splits: np.ndarray
    is_unchanged: bool | None


def open_data(run: RunFiles) -> RunData | str:
    """The data of a run, or a sentence on why it cannot be read. Demo data is not created."""
    data = run.settings.data
    if data.mode == "local" and not Path(data.root).is_dir():
        return (
            f"The data folder {data.root} does not exist (current folder: {Path.cwd()}). Run roadwork report in the "
            "folder where the run was trained, or set data.root=FOLDER."
        )
    try:
        dataset = open_dataset(run.settings)
        table, source = dataset.table, dataset.source
        splits = read_splits(run.folder / "splits.json", table, data.class_names).names_by_row(table)
    except (RoadworkError, OSError) as error:
        return f"The data cannot be read: {error}"
    trained_on = run.manifest.get("data_fingerprint")
    return RunData(table, source, splits, None if trained_on is None else trained_on == table.fingerprint())


def dataset_section(run: RunFiles, data: RunData | str) -> Section:
    """Rows, groups and share of Roadwork by split and region."""
    title = "Data and splits"
    if isinstance(data, str):
        return Section("dataset", title, missing=data)
    settings = run.settings
    shown = {
        "rows": len(data.table),
        "gps_coverage": data.table.gps_coverage,
        "splits": [_split_row(run, data, name) for name in (*SPLIT_NAMES, "")],
        "regions": _regions(run, data),
        "split_names": SPLIT_NAMES,
        "notes": data.table.notes if settings.privacy.coarsen_gps is None else (),  # notes quote values of the data
        "corrections": settings.data.label_corrections,
        "unreadable": run.results.get(TEST_SPLIT, {}).get("unreadable"),
        "fingerprint": data.table.fingerprint(),
        "is_unchanged": data.is_unchanged,
        "strategy": settings.data.splitting.strategy,
        "seed": settings.data.splitting.seed,
        "coarsen_gps": settings.privacy.coarsen_gps,
    }
    return Section("dataset", title, shown)


def _split_row(run: RunFiles, data: RunData, name: str) -> dict[str, Any]:
    here = data.splits == name
    groups = None
    if run.predictions is not None:
        predicted = run.predictions[run.predictions["split"] == name]
        groups = predicted["group"].nunique() or None
    return {
        "name": name or "in no split",
        "rows": int(here.sum()),
        "groups": groups,
        "roadwork_share": float(data.table.labels[here].mean()) if here.any() else None,
        "with_gps": float(data.table.has_gps[here].mean()) if here.any() else None,
    }


def _regions(run: RunFiles, data: RunData) -> dict[str, Any] | None:
    """Rows by region and split, the largest regions first; None if there are no regions to compare."""
    gps, decimals = data.table.gps, run.settings.privacy.coarsen_gps
    columns = data.table.slices.drop(columns=position_columns(data.table.slices, gps, decimals))
    region = find_region(columns, round_positions(gps, decimals))
    if region is None:
        return None
    names, sizes = np.unique(region.names.astype(str), return_counts=True)
    largest = names[np.argsort(-sizes, kind="stable")][:_MAX_REGIONS]
    shown = np.where(np.isin(region.names, largest), region.names, _OTHERS)
    rows = []
    for name in dict.fromkeys([*largest.tolist(), _OTHERS]):
        here = shown == name
        if here.any():
            counts = [int((here & (data.splits == split)).sum()) for split in SPLIT_NAMES]
            share = float(data.table.labels[here].mean())
            rows.append({"name": name, "rows": int(here.sum()), "counts": counts, "roadwork_share": share})
    return {"title": region.title, "rows": rows, "largest": max(row["rows"] for row in rows)}
