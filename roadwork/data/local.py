"""Reads a folder of images with a labels file, or with one folder per class."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roadwork.core.errors import DataError
from roadwork.data.columns import fill_gps_from_photos, find_columns, has_position, table_from_frame
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
    paths = _resolve(root, table.filenames, image_folder)
    source_of_photos = FileImages(paths)
    table = fill_gps_from_photos(table, source_of_photos, has_columns=has_position(found))
    if present:
        left_out = _photos_without_row(root, image_folder, paths)
        what = f"photos have no row in {present[0].name}"
    else:
        what = "files do not have the suffix of a photo in a class folder"
    if left_out:
        first = f"{table.notes[0]} Left out: {len(left_out):,} {what}: {left_out}."
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
    unknown = sorted({label for _, label in rows} - set(class_names))
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


def _resolve(root: Path, filenames: np.ndarray, image_folder: str) -> list[Path]:
    """Paths of the images, below the root or its `image_folder`. Missing files are left to the image check."""
    has_images_folder = (root / image_folder).is_dir()
    resolved = []
    for row, name in enumerate(filenames):
        if not name:
            raise DataError(f"Row {row} of {root}'s labels file has no file name. Fill it in, or remove the row.")
        # Checks the name only: a link that the user made may lead anywhere.
        if not Path(name).is_absolute() and os.path.normpath(name).startswith(".."):
            raise DataError(f"The file name {name!r} leads out of {root}. Use names below it, or absolute paths.")
        path = root / name
        if has_images_folder and not path.exists() and (root / image_folder / name).exists():
            path = root / image_folder / name
        resolved.append(path)
    return resolved


def _photos_without_row(root: Path, image_folder: str, paths: Sequence[Path]) -> LeftOut:
    """The photos in the image folder, else below the root, that no row names."""
    left_out, real = LeftOut(), lru_cache(os.path.realpath)
    named = {(real(folder), name) for folder, name in map(os.path.split, paths)}
    folder = root / image_folder
    for parent, folders, files in os.walk(folder if folder.is_dir() else root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if is_photo_name(name) and not name.startswith(".") and (real(parent), name) not in named:
                left_out.add(os.path.join(os.path.relpath(parent, root), name))  # noqa: PTH118 -- for a text
    return left_out
