"""The Hugging Face mode: a dataset by hub name, a `save_to_disk` folder, or parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow.compute as pc

from roadwork.data.columns import find_columns, table_from_frame
from roadwork.data.images import ArrowImages
from roadwork.data.table import SampleTable
from roadwork.errors import DataError


def read_huggingface(
    name: str, split: str, columns: Mapping[str, str], class_names: Mapping[str, int]
) -> tuple[SampleTable, ArrowImages]:
    """The table of a Hugging Face dataset, read without decoding an image, and its images.

    Args:
        name: hub name, `save_to_disk` folder, parquet file, or folder with parquet files.
        split: the dataset's split to read.
        columns: overrides of the columns found by name.
        class_names: names of string or ClassLabel labels.

    Raises:
        DataError: the dataset cannot be loaded, or its columns cannot be used.
    """
    dataset = _load(name, split)
    image_columns = [c for c, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if len(image_columns) != 1:
        raise DataError(f"{name} has {len(image_columns)} image columns ({image_columns}) among {list(dataset.features)}; one is needed.")
    encoded = dataset.data.column(image_columns[0])
    frame = dataset.remove_columns(image_columns).flatten().to_pandas()
    frame["image.path"] = pc.struct_field(encoded, "path").to_pandas().to_numpy()
    found = find_columns([str(c) for c in frame.columns], columns)
    if "label" in found:
        frame[found["label"]] = _named_labels(dataset, found["label"], frame[found["label"]], class_names)
    table = table_from_frame(frame, found, class_names, source=f"{name} [{split}]")
    return table, ArrowImages(encoded)


def _load(name: str, split: str) -> datasets.Dataset:
    path = Path(name)
    try:
        if path.is_dir() and (path / "state.json").is_file():
            return datasets.load_from_disk(name)
        if path.is_dir() and (path / "dataset_dict.json").is_file():
            return _one_split(datasets.load_from_disk(name), name, split)
        if path.is_file() or path.is_dir():
            files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
            if not files:
                raise DataError(f"data.hub.name is {name}: that folder has no parquet files and was not written by save_to_disk.")
            return datasets.load_dataset("parquet", data_files=[str(f) for f in files], split="train")
        return datasets.load_dataset(name, split=split)
    except DataError:
        raise
    except Exception as error:  # the hub, fsspec, pyarrow and datasets each raise their own
        raise DataError(
            f"data.hub.name={name!r}, data.hub.split={split!r} cannot be loaded ({type(error).__name__}: {_first_line(error)}). "
            "Allowed: a hub dataset that this machine can reach, a save_to_disk folder, or parquet files."
        ) from error


def _one_split(loaded: Mapping[str, Any], name: str, split: str) -> datasets.Dataset:
    if split not in loaded:
        raise DataError(f"{name} has no split {split!r}; it has {', '.join(loaded)}. Choose with data.hub.split=NAME.")
    return loaded[split]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else "no message"


def _named_labels(
    dataset: datasets.Dataset, column: str, values: pd.Series, class_names: Mapping[str, int]
) -> np.ndarray | pd.Series:
    """ClassLabel numbers follow the dataset's own order of names: go by the names, not the numbers."""
    feature = dataset.features.get(column)
    if not isinstance(feature, datasets.ClassLabel):
        return values
    unknown = [name for name in feature.names if name not in class_names and name not in ("0", "1")]
    if unknown:
        raise DataError(f"The label column {column} has the classes {feature.names}; say which is 0 and which is 1: data.class_names={{...}}.")
    return values.map(lambda v: v if pd.isna(v) else feature.names[int(v)])
