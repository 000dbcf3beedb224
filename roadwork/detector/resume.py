"""The partial file of an interrupted prediction, from which the next call continues.

The first line has the model and options; each further line is a record. Lines are only appended, so a kill can damage
only the last one, which the next call removes.
"""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from roadwork.core.errors import DataError
from roadwork.detector.outputs import Record

logger = logging.getLogger(__name__)

_ABSENT = -1


def partial_path(out: Path) -> Path:
    """The file that holds predictions until `out` is written."""
    return out.with_name(f"{out.name}.partial")


class Partial:
    """Records on disk, indexed by photo number.

    Args:
        file: open for reading and writing, positioned after its first line.
        keys: keys of all photos, in order.

    Attributes:
        n_ignored: records of photos that are no longer in the inputs.
    """

    def __init__(self, file: BinaryIO, keys: Iterable[str]) -> None:
        self._file = file
        positions = {key: position for position, key in enumerate(keys)}
        self._offsets = np.full(len(positions), _ABSENT, dtype=np.int64)
        self.n_ignored = 0
        self._end = file.tell()
        for line in file:
            key = _key_of(line)
            if key is None:
                break
            if key in positions:
                self._offsets[positions[key]] = self._end
            else:
                self.n_ignored += 1
            self._end += len(line)
        file.seek(self._end)
        file.truncate()

    @property
    def is_done(self) -> np.ndarray:
        """(N,) bool, whether each photo has a record."""
        done: np.ndarray = self._offsets != _ABSENT
        return done

    def append(self, records: Mapping[int, Record]) -> None:
        """Adds records by photo number; after the return they survive a kill."""
        self._file.seek(self._end)
        for position, record in records.items():
            line = record.to_line()
            self._offsets[position] = self._end
            self._end += self._file.write(line)
        self._file.flush()

    def records(self) -> Iterator[Record]:
        """All records in the order of the photos."""
        for offset in self._offsets.tolist():
            self._file.seek(offset)
            yield Record.from_line(self._file.readline())


def _key_of(line: bytes) -> str | None:
    """The key of a line's record; None if the line is incomplete."""
    try:
        return Record.from_line(line).key if line.endswith(b"\n") else None
    except ValueError:
        return None


@contextmanager
def open_partial(path: Path, made_by: Mapping[str, Any], keys: Iterable[str], *, overwrite: bool) -> Iterator[Partial]:
    """The partial file, new or from an earlier call, locked for this process.

    Args:
        path: path of the file.
        made_by: model and options that determine the predictions.
        keys: keys of all photos, in order.
        overwrite: start again if the file is from another model or other options.

    Raises:
        DataError: another process is writing to it, or it is from another model or other options.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with path.open("rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"Another `roadwork predict` is writing to {path}. Wait for it, or name another --out."
            ) from error
        _check_header(file, path, made_by, overwrite=overwrite)
        yield Partial(file, keys)


def _check_header(file: BinaryIO, path: Path, made_by: Mapping[str, Any], *, overwrite: bool) -> None:
    """Positions the file after its first line, and writes that line if it is missing."""
    wanted = json.dumps({"roadwork predict": made_by}).encode() + b"\n"
    first = file.readline()
    if first == wanted:
        return
    if not wanted.startswith(first):  # otherwise it is empty, or the call was killed at its start
        differing = _differing(first, made_by)
        if not overwrite:
            raise DataError(
                f"{path} has predictions of another model or with other options ({differing}). Name another --out, or "
                "start again with --overwrite."
            )
        logger.warning("Replacing %s: its predictions have another model or other options (%s).", path, differing)
    file.seek(0)
    file.truncate()
    file.write(wanted)
    file.flush()


def _differing(first: bytes, made_by: Mapping[str, Any]) -> str:
    try:
        before = json.loads(first)["roadwork predict"]
        named = [name for name, value in made_by.items() if before.get(name) != value]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "not a partial file of this version"
    return ", ".join(f"{name} was {before.get(name)}" if name != "model" else "another model" for name in named)
