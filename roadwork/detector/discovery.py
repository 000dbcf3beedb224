"""Finds the photos of a command: files, folders, globs and lists, in a fixed order and without duplicates."""

from __future__ import annotations

import glob
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from roadwork.core.errors import DataError
from roadwork.data.formats import SUFFIXES, LeftOut, is_photo_name
from roadwork.detector.photos import FoundPhotos, PhotoFiles, PhotoSource

logger = logging.getLogger(__name__)

PARQUET = ".parquet"
FROM_STDIN = "-"


def find_photos(inputs: Sequence[str], listed: Iterable[bytes] = (), *, recursive: bool = True) -> FoundPhotos:
    """The photos of all inputs. The photos of a folder are sorted by name and precede those of its subfolders.

    Args:
        inputs: files, folders, globs, parquet files, and `-` for `listed`.
        listed: paths, one per line. A missing path is an unreadable photo here, but an error in `inputs`.
        recursive: whether to read subfolders.

    Raises:
        DataError: an input does not exist, a parquet file cannot be used, or there are no photos.
    """
    finder = _Finder(recursive)
    for given in inputs:
        if given == FROM_STDIN:
            for line in listed:
                if name := os.fsdecode(line.rstrip(b"\r\n")):
                    finder.add(name, must_exist=False)
        else:
            finder.add_input(given)
    found = finder.finish()
    if not len(found):
        raise DataError(_nothing(inputs, finder))
    return found


class _Finder:
    """Collects photos; consecutive files become one source."""

    def __init__(self, recursive: bool) -> None:
        self.recursive = recursive
        self.n_duplicates = self.n_hidden = self.n_parquet = 0
        self.left_out = LeftOut()
        self._sources: list[PhotoSource] = []
        self._names: list[str] = []
        self._keys: list[str] = []
        self._seen: set[str] = set()

    def add_input(self, given: str) -> None:
        """Adds a file, folder or glob; an existing file whose name looks like a glob is read as a file."""
        if os.path.lexists(given) or not glob.has_magic(given):
            self.add(given)
            return
        for path in sorted(glob.glob(given, recursive=True)):  # noqa: PTH207 -- a Path would drop a leading ./
            if Path(path).is_dir() or is_photo_name(path) or _is_parquet(path):
                self.add(path)
            else:
                self.left_out.add(path)

    def add(self, path: str, *, must_exist: bool = True) -> None:
        try:
            mode = Path(path).stat().st_mode
        except (OSError, ValueError) as error:  # a list can hold anything: names too long, or with a zero byte
            if must_exist:
                raise DataError(
                    f"{path} cannot be read: {getattr(error, 'strerror', None) or error}. An INPUT is a photo, a "
                    "folder, a glob, a parquet file, or - for paths on standard input."
                ) from error
            self._add_file(path, os.path.abspath(path))  # noqa: PTH100 -- for a text
            return
        if stat.S_ISDIR(mode):
            self._add_folder(path)
        elif not stat.S_ISREG(mode):
            raise DataError(f"{path} is neither a file nor a folder. Name files, folders or globs.")
        elif _is_parquet(path):
            self._add_parquet(path)
        else:
            self._add_file(path, os.path.realpath(path))

    def finish(self) -> FoundPhotos:
        self._close_files()
        return FoundPhotos(self._sources, self.n_duplicates, self.n_hidden, self.left_out)

    def _add_file(self, name: str, key: str) -> None:
        if self._is_new(key):
            self._names.append(name)
            self._keys.append(key)

    def _add_parquet(self, path: str) -> None:
        if not self._is_new(os.path.realpath(path)):
            return
        from roadwork.detector.parquet_photos import open_parquet  # noqa: PLC0415 -- pandas and pyarrow are slow

        source = open_parquet(Path(path))
        if not isinstance(source, PhotoFiles):
            self._close_files()
            self._sources.append(source)
            return
        fresh = [self._is_new(key) for key in source.keys()]  # noqa: SIM118 -- no mapping
        self._close_files()
        self._sources.append(source.take(fresh))

    def _add_folder(self, top: str) -> None:
        waiting, entered = [top], set()
        while waiting:
            folder = waiting.pop()
            real = os.path.realpath(folder)
            if real in entered:  # a link that leads back
                continue
            entered.add(real)
            waiting += reversed(list(self._add_files_of(folder, real)))

    def _add_files_of(self, folder: str, real: str) -> Iterator[str]:
        """Adds the photos directly in a folder; yields its subfolders."""
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            logger.warning("%s cannot be read: %s. Its photos are skipped.", folder, error.strerror)
            return
        for entry in entries:
            if entry.name.startswith("."):
                self.n_hidden += 1
            elif entry.is_dir():
                if self.recursive:
                    yield entry.path
            elif is_photo_name(entry.name) and (entry.is_file() or entry.is_symlink()):
                # A dangling link is reported as an unreadable photo.
                key = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)  # noqa: PTH118
                self._add_file(entry.path, key)
            else:
                self.left_out.add(entry.path)
                self.n_parquet += _is_parquet(entry.name)

    def _close_files(self) -> None:
        if self._keys:
            self._sources.append(PhotoFiles(self._names, self._keys))
            self._names, self._keys = [], []

    def _is_new(self, key: str) -> bool:
        is_new = key not in self._seen
        self._seen.add(key)
        self.n_duplicates += not is_new
        return is_new


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(PARQUET)


def _nothing(inputs: Sequence[str], finder: _Finder) -> str:
    n, n_hidden = len(finder.left_out), finder.n_hidden
    skipped = f" Skipped: {n} without a photo suffix, {finder.left_out}, and {n_hidden} hidden." if n else ""
    hint = " Parquet files in a folder must be named explicitly, such as 'folder/*.parquet'." * bool(finder.n_parquet)
    return (
        f"There are no photos in {', '.join(inputs[:5])}{' ...' * (len(inputs) > 5)}.{skipped}{hint} "
        f"Name photos, folders with files ending in {', '.join(SUFFIXES)}, globs, or parquet files with images."
    )
