"""The local mode: a folder of images with a labels file, or with one folder a class."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from roadwork.data.columns import find_columns, table_from_frame
from roadwork.data.images import FileImages
from roadwork.data.table import SampleTable
from roadwork.data.utils.exif_gps import read_exif_gps_table
from roadwork.errors import DataError

LABELS_FILES = ("labels.csv", "labels.json", "labels.jsonl", "labels.parquet")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def read_local(root: Path, columns: Mapping[str, str], class_names: Mapping[str, int]) -> tuple[SampleTable, FileImages]:
    """The table of a folder, and its images.

    Args:
        root: the folder, with `labels.csv`, `.json`, `.jsonl` or `.parquet`, or with one folder a class.
        columns: overrides of the columns found by name.
        class_names: names of class folders and string labels.

    Raises:
        DataError: no folder, no or several labels files, unusable labels or positions.
    """
    if not root.is_dir():
        raise DataError(
            f"data.root is {root}, which is not a folder. Name your dataset's folder with data.root=DIR or ROADWORK_DATA, "
            "or make a demo dataset with `roadwork demo-data DIR`."
        )
    present = [root / name for name in LABELS_FILES if (root / name).is_file()]
    if len(present) > 1:
        raise DataError(f"{root} has {' and '.join(p.name for p in present)}; keep one labels file, so that it is clear which counts.")
    if present:
        frame, source = read_labels_file(present[0]), str(present[0])
    else:
        frame, source = _frame_of_class_folders(root, class_names), f"{root} (one folder a class)"
    found = find_columns([str(c) for c in frame.columns], columns)
    if "filename" not in found:
        raise DataError(f"{source} has no filename column; it has {', '.join(map(str, frame.columns))}. Name yours with data.columns.filename=NAME.")
    table = table_from_frame(frame, found, class_names, source=source)
    paths = _resolve(root, table.filenames)
    if not {"latitude", "longitude", "gps"} & set(found):
        table = _with_exif_gps(table, paths)
    return table, FileImages(paths)


def read_labels_file(path: Path) -> pd.DataFrame:
    """The rows of a labels file; strings stay strings (a class named "None" is no missing value).

    Raises:
        DataError: the file cannot be parsed.
    """
    try:
        match path.suffix:
            case ".csv":
                # utf-8-sig: spreadsheets write a byte order mark, which would hide the first column's name
                return pd.read_csv(path, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
            case ".json" | ".jsonl":
                return pd.read_json(path, lines=path.suffix == ".jsonl", convert_dates=False, dtype=False)
            case ".parquet":
                return pd.read_parquet(path)
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error
    raise DataError(f"{path} is no labels file. Allowed: {', '.join(LABELS_FILES)}.")


def _frame_of_class_folders(root: Path, class_names: Mapping[str, int]) -> pd.DataFrame:
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    rows = [
        (file.relative_to(root).as_posix(), folder.name)
        for folder in folders
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES
    ]
    unknown = sorted({label for _, label in rows} - set(class_names))
    if not rows or unknown:
        what = f"the folders {', '.join(unknown)} are no class" if rows else "no class folder with images"
        raise DataError(
            f"{root} has no labels file ({', '.join(LABELS_FILES)}), and {what}. Allowed: a labels file with filename and label, "
            f"or folders named {' and '.join(class_names)} (other names: data.class_names)."
        )
    return pd.DataFrame(rows, columns=["filename", "label"])


def _resolve(root: Path, filenames: np.ndarray) -> list[Path]:
    """Paths of the images, below the root or below its `images` folder; a missing one is found out by the image check."""
    in_images = set(os.listdir(root / "images")) if (root / "images").is_dir() else set()
    resolved = []
    for name in filenames:
        path = root / name
        if not path.resolve().is_relative_to(root.resolve()) and not Path(name).is_absolute():
            raise DataError(f"The file name {name!r} leads out of {root}. Use names below it, or absolute paths.")
        resolved.append(root / "images" / name if name in in_images and not path.exists() else path)
    return resolved


def _with_exif_gps(table: SampleTable, paths: list[Path]) -> SampleTable:
    gps = read_exif_gps_table(paths)
    with_gps = int((~np.isnan(gps).any(axis=1)).sum())
    return replace(table, gps=gps, notes=(*table.notes, f"No GPS columns: {with_gps:,} of {len(table):,} photos have GPS in their EXIF."))
