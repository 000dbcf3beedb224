"""The Hugging Face mode: a dataset by hub name, a `save_to_disk` folder, or parquet files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd

from roadwork.core.errors import DataError
from roadwork.data.columns import (
    POSITION_FIELDS,
    fill_gps_from_photos,
    find_columns,
    has_position,
    label_of,
    table_from_frame,
)
from roadwork.data.formats import LeftOut
from roadwork.data.images import N_END_BYTES, FileImages, ImageEnds, UnreadableImageError
from roadwork.data.table import SampleTable
from roadwork.data.utils.gps_utils import normalize_gps


class ArrowImages:
    """Images embedded in a dataset's image column, as structs of bytes and path."""

    def __init__(self, dataset: datasets.Dataset, column: str) -> None:
        # Reads rows through the dataset: its Arrow table ignores a shuffle or selection.
        self.rows = dataset.select_columns([column]).with_format("arrow")

    def read(self, row: int) -> bytes:
        encoded, path = self._bytes_and_path(row)
        return encoded.to_pybytes() if encoded else FileImages([path]).read(0)

    def read_ends(self, row: int) -> ImageEnds:
        encoded, path = self._bytes_and_path(row)
        if not encoded:
            return FileImages([path]).read_ends(0)
        last = encoded[max(0, len(encoded) - N_END_BYTES) :]
        return ImageEnds(encoded[:N_END_BYTES].to_pybytes(), last.to_pybytes(), len(encoded))

    def _bytes_and_path(self, row: int) -> tuple[Any, Path]:
        """A view of the encoded bytes (empty or None if they are in a file), and that file."""
        value = self.rows[row].column(0)[0]
        encoded = value["bytes"].as_buffer() if value.is_valid else None
        path = value["path"].as_py() if value.is_valid and "path" in value else None
        if not encoded and not path:
            raise UnreadableImageError("the image is null")
        return encoded, Path(path or "")


def read_huggingface(
    name: str, split: str, columns: Mapping[str, str], class_names: Mapping[str, int], *, key: str = "data"
) -> tuple[SampleTable, ArrowImages]:
    """The table of a Hugging Face dataset, read without decoding images, and its images.

    Args:
        name: hub name, `save_to_disk` folder, parquet file, glob of parquet files, or folder with parquet files.
        split: the dataset's split to read.
        columns: overrides of the columns found by name.
        class_names: names of string or ClassLabel labels.
        key: configuration key of the dataset, for messages.

    Raises:
        DataError: the dataset cannot be loaded, or its columns cannot be used.
    """
    dataset = _load(name, split, key)
    image = _image_column(dataset, name)
    undecoded = dataset
    if isinstance(dataset.features[image], datasets.Image):
        undecoded = dataset.cast_column(image, datasets.Image(decode=False))
    flat = undecoded.flatten()
    frame = flat.remove_columns(f"{image}.bytes").to_pandas()
    if f"{image}.path" in frame:
        frame = frame.rename(columns={f"{image}.path": "image.path"})
    found = find_columns([str(c) for c in frame.columns], columns, key=key)
    if isinstance(feature := flat.features.get(found.get("label", "")), datasets.ClassLabel):
        frame[found["label"]] = _named_labels(feature, found["label"], frame[found["label"]], class_names, key)
    table = table_from_frame(frame, found, class_names, source=f"{name} [{split}]", key=key)
    if left_out := _left_out(Path(name), split, key):
        first = f"{table.notes[0]} Left out: {len(left_out):,} files are not parquet files of {split}: {left_out}."
        table = replace(table, notes=(first, *table.notes[1:]))
    images = ArrowImages(dataset, image)
    return fill_gps_from_photos(table, images, has_columns=has_position(found)), images


def read_huggingface_gps(name: str, split: str, columns: Mapping[str, str]) -> np.ndarray:
    """(M, 2) latitude, longitude in degrees of a dataset's split, NaN where missing; reads no other column.

    Args:
        name: see `read_huggingface`.
        split: the dataset's split to read; it needs no labels.
        columns: overrides of the columns found by name.

    Raises:
        DataError: the split cannot be loaded, or has no positions or unusable ones.
    """
    if Path(name).is_file() or (Path(name) / "state.json").is_file():  # these have no splits to choose from
        raise DataError(
            f"{name} has only one split, so {split!r} cannot be read from it. Name a hub dataset, a saved DatasetDict "
            "or a folder of parquet files, or use a file of deployment points."
        )
    flat = _load(name, split, "data").flatten()
    overrides = {field: column for field, column in columns.items() if field in POSITION_FIELDS}
    found = find_columns(flat.column_names, overrides)
    present = {field: found[field] for field in POSITION_FIELDS if field in found}
    if not present:
        raise DataError(
            f"{name} [{split}] has no column of positions; it has {', '.join(flat.column_names)}. "
            "Name yours with data.columns.latitude=NAME and data.columns.longitude=NAME, or data.columns.gps=NAME."
        )
    frame = flat.select_columns(list(present.values())).to_pandas()
    latitude, longitude, text = (
        frame[present[field]].tolist() if field in present else None for field in POSITION_FIELDS
    )
    return normalize_gps(latitude, longitude, text, [f"row {row} of {split}" for row in range(len(frame))]).coordinates


def _image_column(dataset: datasets.Dataset, name: str) -> str:
    """The image column: of the Image type, or structs of bytes and path as pandas writes them."""
    images = [
        column
        for column, feature in dataset.features.items()
        if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})
    ]
    if "image" in images:
        return "image"
    if len(images) != 1:
        raise DataError(
            f"{name} has {len(images)} image columns {images or ''} among {', '.join(dataset.features)}. "
            "Needed: one of the datasets.Image type, or of structs of bytes and path. "
            "If there are several, name one of them image."
        )
    return str(images[0])


def _load(name: str, split: str, key: str) -> datasets.Dataset:
    try:
        if (Path(name) / "state.json").is_file():
            return datasets.load_from_disk(name)
        if (Path(name) / "dataset_dict.json").is_file():
            return _one_split(datasets.load_from_disk(name), name, split, key)
        if Path(name).exists() or "*" in name:
            files = _parquet_files(name, split, key)
            return datasets.load_dataset("parquet", data_files=files, split="train")
        return datasets.load_dataset(name, split=split)
    except DataError:
        raise
    except Exception as error:  # the hub, fsspec, pyarrow and datasets each raise their own
        raise DataError(
            f"{key}.hub.name={name!r}, {key}.hub.split={split!r} cannot be loaded "
            f"({type(error).__name__}: {_first_line(error)}). "
            "Allowed: a hub dataset that this machine can reach, a save_to_disk folder, or parquet files."
        ) from error


def _one_split(loaded: Mapping[str, Any], name: str, split: str, key: str) -> datasets.Dataset:
    if split not in loaded:
        raise DataError(f"{name} has no split {split!r}; it has {', '.join(loaded)}. Choose with {key}.hub.split=NAME.")
    return loaded[split]


def _parquet_files(name: str, split: str, key: str) -> list[str]:
    """The files whose names have the split's, as the hub writes them. For train, all files if none has it."""
    path = Path(name)
    if path.is_file():
        return [name]
    root = path if path.is_dir() else Path()
    files = sorted(root.rglob("*.parquet") if path.is_dir() else root.glob(name))
    words = {file: set(re.split(r"[^a-z0-9]+", str(file.relative_to(root)).lower())) for file in files}
    chosen = [file for file in files if split.lower() in words[file]]
    if chosen or (files and split == "train"):
        return [str(file) for file in chosen or files]
    has = f"its parquet files are {', '.join(f.name for f in files[:5])}" if files else "it has no parquet files"
    raise DataError(
        f"{key}.hub.name={name!r} has no split {split!r}: {has}, and it was not written by save_to_disk. "
        f"Allowed: parquet files with the split in their names, or {key}.hub.split=train for all of them."
    )


def _left_out(folder: Path, split: str, key: str) -> LeftOut:
    """The files in a folder of parquet files that are not read; none for other sources."""
    left_out = LeftOut()
    if folder.is_dir() and not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        chosen = set(_parquet_files(str(folder), split, key))
        for path in sorted(folder.rglob("*")):
            if path.is_file() and str(path) not in chosen:
                left_out.add(str(path.relative_to(folder)))
    return left_out


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else "no message"


def _named_labels(
    feature: datasets.ClassLabel, column: str, values: pd.Series, class_names: Mapping[str, int], key: str
) -> list[str | None]:
    """The class names of ClassLabel numbers, which follow the dataset's own order of names."""
    unknown = [name for name in feature.names if label_of(name, class_names) is None]
    if unknown:
        raise DataError(
            f"The label column {column} has the classes {feature.names}; {key}.class_names has {dict(class_names)}. "
            f"Set which is 0 and which is 1, such as '{key}.class_names={{{unknown[0]}: 0, ...}}'."
        )
    names = dict(enumerate(feature.names))  # -1 marks a missing label, like null
    return [None if pd.isna(value) else names.get(int(value)) for value in values]
