"""Reads a folder of images with a labels file, or with one folder per class."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roadwork.core.errors import DataError
from roadwork.data.columns import fill_gps_from_photos, find_columns, has_position, label_of, table_from_frame
from roadwork.data.file_names import find_named_photos
from roadwork.data.formats import SUFFIXES, LeftOut, is_photo_name
from roadwork.data.images import FileImages
from roadwork.data.table import SampleTable

LABELS_FILES = ("labels.csv", "labels.json", "labels.jsonl", "labels.parquet")


def read_local(
    root: Path,
    columns: Mapping[str, str],
    class_names: Mapping[str, int],
    *,
    key: str = "data",
    labels_files: Sequence[str] = LABELS_FILES,
    image_folder: str = "images",
) -> tuple[SampleTable, FileImages]:
    """The table and the images of a folder.

    Args:
        root: the folder, with `labels.csv`, `.json`, `.jsonl` or `.parquet`, or with one folder per class.
        columns: overrides of the columns found by name.
        class_names: names of class folders and string labels.
        key: configuration key of the dataset, for messages.
        labels_files: names of the labels file.
        image_folder: the folder below `root` that may hold the images.

    Raises:
        DataError: no folder, no or several labels files, unusable labels or positions.
    """
    if not root.is_dir():
        raise DataError(
            f"{key}.root is {root}, which is not a folder. "
            f"Name your dataset's folder with {key}.root=DIR or ROADWORK_DATA, "
            "or make a demo dataset with `roadwork demo-data DIR`."
        )
    present = [root / name for name in labels_files if (root / name).is_file()]
    if len(present) > 1:
        raise DataError(
            f"{root} has {' and '.join(p.name for p in present)}. Keep one labels file and remove the others."
        )
    left_out = LeftOut()
    if present:
        frame, source = read_labels_file(present[0]), str(present[0])
    else:
        frame = _frame_of_class_folders(root, class_names, key, left_out)
        source = f"{root} (one folder per class)"
    found = find_columns([str(c) for c in frame.columns], columns, key=key)
    if "filename" not in found:
        raise DataError(
            f"{source} has no filename column; it has {', '.join(map(str, frame.columns))}. "
            f"Name yours with {key}.columns.filename=NAME."
        )
    table = table_from_frame(frame, found, class_names, source=source, key=key)
    _check_no_repeats(table.filenames, source)
    if present:
        paths, left_out, note = find_named_photos(root, table.filenames, image_folder)
        table = replace(table, notes=(*table.notes, note)) if note else table
    else:
        paths = [root / name for name in table.filenames]
    source_of_photos = FileImages(paths)
    table = fill_gps_from_photos(table, source_of_photos, has_columns=has_position(found))
    if left_out:
        where = f"photos have no row in {present[0].name}" if present else "files are not photos in a class folder"
        first = f"{table.notes[0]} Left out: {len(left_out):,} {where}: {left_out}."
        table = replace(table, notes=(first, *table.notes[1:]))
    return table, source_of_photos


def read_labels_file(path: Path) -> pd.DataFrame:
    """The rows of a labels file; strings stay strings (a class named "None" is not a missing value).

    Raises:
        DataError: the file cannot be parsed.
    """
    try:
        match path.suffix:
            case ".csv":
                return _read_csv(path)
            case ".json":
                return _frame_of_objects(json.loads(path.read_text(encoding="utf-8-sig")))
            case ".jsonl":
                lines = path.read_text(encoding="utf-8-sig").splitlines()
                return _frame_of_objects([_json_line(n, line) for n, line in enumerate(lines, 1) if line.strip()])
            case ".parquet":
                return pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path} cannot be read as {path.suffix[1:]}: {error}. Needed: one row per image, with filename and label."
        ) from error
    raise DataError(f"{path} is not a labels file. Allowed: {', '.join(LABELS_FILES)}.")


def _json_line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} is not JSON ({error})") from error


def _read_csv(path: Path) -> pd.DataFrame:
    """Parses numbers, except codes such as 007; only empty fields are missing."""
    # utf-8-sig: spreadsheets write a byte order mark, which would hide the first column's name
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    separator = next((s for s in (",", ";", "\t") if s in header), ",")
    names = next(csv.reader([header], delimiter=separator), [])
    if repeated := sorted({name for name in names if names.count(name) > 1}):  # pandas would rename the second
        raise ValueError(f"its header has {', '.join(map(repr, repeated))} more than once")
    options: dict[str, Any] = {"sep": separator, "encoding": "utf-8-sig", "keep_default_na": False, "na_values": [""]}
    text = pd.read_csv(path, dtype=str, **options)
    shifted = not isinstance(text.index, pd.RangeIndex)  # pandas reads surplus first fields as row names
    if shifted:
        raise ValueError(f"its rows have more fields than the {text.shape[1]} columns of its header")
    codes = [column for column in text if text[column].astype(str).str.match(r"0\d").any()]
    frame: pd.DataFrame = pd.read_csv(path, dtype=dict.fromkeys(codes, str), low_memory=False, **options)
    return frame


def _frame_of_objects(rows: Any) -> pd.DataFrame:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"it is not a list of objects, but {str(rows)[:60]}")
    return pd.DataFrame(rows)


def _frame_of_class_folders(root: Path, class_names: Mapping[str, int], key: str, left_out: LeftOut) -> pd.DataFrame:
    """The photos of the class folders; files that are none are counted in `left_out`."""
    rows = []
    for folder in sorted(path for path in root.iterdir() if not path.name.startswith(".")):
        if not folder.is_dir():
            if is_photo_name(folder.name):
                left_out.add(folder.name)
            continue
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(root).as_posix()
            if is_photo_name(name) and not file.name.startswith("."):
                rows.append((name, folder.name))
            elif not file.is_dir():
                left_out.add(name)
    unknown = sorted({label for _, label in rows if label_of(label, class_names) is None})
    if not rows or unknown:
        what = f"the folders {', '.join(unknown)} are not classes" if rows else "no class folder with images"
        raise DataError(
            f"{root} has no labels file ({', '.join(LABELS_FILES)}), and {what}. Allowed: a labels file with filename "
            f"and label, or folders named {' and '.join(class_names)} (other names: {key}.class_names) "
            f"with {', '.join(SUFFIXES)} files."
        )
    return pd.DataFrame(rows, columns=["filename", "label"])


def _check_no_repeats(filenames: np.ndarray, source: str) -> None:
    """Refuses a photo with two rows, which could be in both train and test."""
    names, counts = np.unique(filenames.astype(str), return_counts=True)
    repeated = names[counts > 1]
    if len(repeated):
        raise DataError(
            f"{source} names {len(repeated)} photos more than once: {', '.join(repeated[:5])}. Keep one row per photo."
        )
