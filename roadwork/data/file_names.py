"""Finds the photos that the rows of a labels file name, also if another system wrote the names."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from roadwork.core.errors import DataError
from roadwork.data.formats import SUFFIXES, LeftOut, is_photo_name

logger = logging.getLogger(__name__)

_SHOWN = 5
Parts = tuple[str, ...]


def find_named_photos(root: Path, filenames: np.ndarray, image_folder: str) -> tuple[list[Path], LeftOut, str]:
    """The paths of the photos of N rows, the photos that no row names, and a note about names that differ.

    A name without a file is compared with the photos that no row names. Upper and lower case, the form of accents (NFC
    or NFD), backslashes, a missing suffix and further leading folders do not matter. A photo is taken if it is the only
    one that fits, and fits no other name; else a warning names the candidates. Files that are still missing are left to
    the image check.

    Args:
        root: the dataset's folder.
        filenames: (N,) names, relative to the root or to its image folder, or absolute.
        image_folder: the folder below `root` that may hold the images.

    Raises:
        DataError: a row has no name, or a name that leads out of the root.
    """
    base = root / image_folder if (root / image_folder).is_dir() else root
    paths = [_path_of(root, base, str(name), row) for row, name in enumerate(filenames)]
    unnamed = dict.fromkeys(_photos_without_row(base, paths))
    note = ""
    # Without such photos nothing could be found, and no file is looked at.
    missing = [row for row, path in enumerate(paths) if unnamed and not path.exists()]
    if missing:
        found = _find_similar([str(filenames[row]) for row in missing], list(unnamed), base)
        for number, path in found.items():
            paths[missing[number]] = Path(path)
            del unnamed[path]
        if found:
            number, path = next(iter(found.items()))
            note = (
                f"{len(found):,} file names differ from those of the photos and were matched, "
                f"first {filenames[missing[number]]} to {os.path.relpath(path, root)}."
            )
    left_out = LeftOut()
    for path in unnamed:
        left_out.add(os.path.relpath(path, root))
    return paths, left_out, note


def _path_of(root: Path, base: Path, name: str, row: int) -> Path:
    if not name:
        raise DataError(f"Row {row} of {root}'s labels file has no file name. Fill it in, or remove the row.")
    # Checks the name only: a link that the user made may lead anywhere.
    if not Path(name).is_absolute() and os.path.normpath(name).startswith(".."):
        raise DataError(f"The file name {name!r} leads out of {root}. Use names below it, or absolute paths.")
    path = root / name
    return base / name if base != root and not path.exists() and (base / name).exists() else path


def _photos_without_row(base: Path, paths: Sequence[Path]) -> Iterator[str]:
    real = cache(os.path.realpath)
    named = {(real(folder), name) for folder, name in map(os.path.split, paths)}
    for parent, folders, files in os.walk(base):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if is_photo_name(name) and not name.startswith(".") and (real(parent), name) not in named:
                yield os.path.join(parent, name)  # noqa: PTH118 -- a Path for each of a million files takes seconds


def _find_similar(names: Sequence[str], photos: Sequence[str], base: Path) -> dict[int, str]:
    """The photo of each name (by number) for which exactly one fits, and that fits no other name; warns of others."""
    by_stem: dict[str, list[tuple[Parts, str]]] = defaultdict(list)
    for photo in photos:
        parts = _comparable(os.path.relpath(photo, base))
        by_stem[_stem(parts[-1])].append((parts, photo))
    fitting = {number: _fitting(_comparable(name), by_stem) for number, name in enumerate(names)}
    n_names = Counter(photo for candidates in fitting.values() for photo in candidates)
    unclear = [
        f"{names[number]} ({', '.join(os.path.relpath(photo, base) for photo in candidates[:_SHOWN])})"
        for number, candidates in fitting.items()
        if len(candidates) > 1 or any(n_names[photo] > 1 for photo in candidates)
    ]
    if unclear:
        logger.warning(
            "%s file names of %s are no files, and the photos that fit are not unique, first: %s. Write the names as "
            "they are in the folder.",
            *(f"{len(unclear):,}", base, "; ".join(unclear[:_SHOWN])),
        )
    return {
        number: candidates[0]
        for number, candidates in fitting.items()
        if len(candidates) == 1 and n_names[candidates[0]] == 1
    }


def _comparable(name: str) -> Parts:
    """The parts of a path in a form that does not depend on the system."""
    text = unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()
    return tuple(part for part in text.split("/") if part not in ("", "."))


def _stem(name: str) -> str:
    return name.removesuffix(next((suffix for suffix in SUFFIXES if name.endswith(suffix)), ""))


def _fitting(name: Parts, by_stem: Mapping[str, Sequence[tuple[Parts, str]]]) -> list[str]:
    """The photos whose path ends like the name, or the name like the path; those with the most parts in common."""
    candidates: dict[int, list[str]] = defaultdict(list)
    for parts, photo in by_stem.get(_stem(name[-1]), []) if name else []:
        n = min(len(name), len(parts))
        same_suffix = name[-1] == parts[-1] or not is_photo_name(name[-1])
        if same_suffix and name[-n:-1] == parts[-n:-1]:
            candidates[n].append(photo)
    return candidates[max(candidates)] if candidates else []
