"""The partial file of a prediction, from which an interrupted command continues.

Its first line names the model and options; each further line is a record. Lines are only appended, so a kill can
damage only the last one, which is then cut off.
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
        file: open for reading and writing, behind its first line.
        keys: of all photos, in order.

    Attributes:
        n_left_out: records of photos that are no longer among them.
    """

    def __init__(self, file: BinaryIO, keys: Iterable[str]) -> None:
        self._file = file
        positions = {key: position for position, key in enumerate(keys)}
        self._offsets = np.full(len(positions), _ABSENT, dtype=np.int64)
        self.n_left_out = 0
        self._end = file.tell()
        for line in file:
            key = _key_of(line)
            if key is None:
                break
            if key in positions:
                self._offsets[positions[key]] = self._end
            else:
                self.n_left_out += 1
            self._end += len(line)
        file.seek(self._end)
        file.truncate()

    @property
    def is_done(self) -> np.ndarray:
        """(N,) bool, whether each photo has its record."""
        done: np.ndarray = self._offsets != _ABSENT
        return done

    def append(self, records: Mapping[int, Record]) -> None:
        """Adds the records of some positions; once this returns, a kill cannot take them away."""
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
    """The key of a line's record; None where the line was not written to its end."""
    try:
        return Record.from_line(line).key if line.endswith(b"\n") else None
    except ValueError:
        return None


@contextmanager
def open_partial(path: Path, made_by: Mapping[str, Any], keys: Iterable[str], *, overwrite: bool) -> Iterator[Partial]:
    """The partial file, new or as an earlier call has left it, for this process alone.

    Args:
        path: of the file.
        made_by: model and options on which the answers depend.
        keys: of all photos, in order.
        overwrite: begin anew where the file's answers come from others.

    Raises:
        DataError: another process is writing to it, or its answers come from another model or other options.
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
    """Leaves the file behind its first line, which is written where there is none."""
    wanted = json.dumps({"roadwork predict": made_by}).encode() + b"\n"
    first = file.readline()
    if first == wanted:
        return
    if not wanted.startswith(first):  # else it is empty, or was killed as it began
        differing = _differing(first, made_by)
        if not overwrite:
            raise DataError(
                f"{path} holds answers that were made otherwise ({differing}). Name another --out, or begin anew with "
                "--overwrite."
            )
        logger.warning("%s holds answers that were made otherwise (%s): it is begun anew.", path, differing)
    file.seek(0)
    file.truncate()
    file.write(wanted)
    file.flush()


def _differing(first: bytes, made_by: Mapping[str, Any]) -> str:
    try:
        before = json.loads(first)["roadwork predict"]
        named = [name for name, value in made_by.items() if before.get(name) != value]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "it is no partial file of this version"
    return ", ".join(f"{name} was {before.get(name)}" if name != "model" else "another model" for name in named)
