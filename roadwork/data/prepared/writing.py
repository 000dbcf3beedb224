"""A copy's folder opened for writing: by one process at a time, and cleared of what a killed one has left."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from roadwork.data.prepared.folder import Manifest, read_manifest, shard_paths, wanted_folder, wanted_short_side
from roadwork.data.source import dataset_key
from roadwork.errors import DataError
from roadwork.settings import DataSettings

logger = logging.getLogger(__name__)


@contextmanager
def writing(data: DataSettings) -> Iterator[Manifest]:
    """The folder of the copy that is wanted, made where there is none, for this process alone; gives its manifest.

    Raises:
        DataError: another process is writing to it, or it holds something else.
    """
    folder = wanted_folder(data)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:  # held by the open file, so that a kill frees it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"Another `roadwork prepare` is writing to {folder}. Wait for it, or stop it.") from error
        yield _clean(data)


def _clean(data: DataSettings) -> Manifest:
    """Removes leftovers of a run that was killed, and what another version of the code has made."""
    folder = wanted_folder(data)
    wanted = Manifest(dataset_key(data), wanted_short_side(data))
    found = read_manifest(folder)
    if found is None:
        strangers = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        if strangers:
            raise DataError(
                f"{folder} holds {', '.join(sorted(strangers)[:3])} and no manifest of a resized copy. "
                "Name an empty folder with data.prepared.folder=DIR, or remove this one."
            )
    elif (found.dataset, found.short_side) != (wanted.dataset, wanted.short_side):
        what = "of another dataset" if found.dataset != wanted.dataset else f"with a short side of {found.short_side}"
        raise DataError(
            f"{folder} holds a resized copy {what}; wanted is this dataset's with {wanted.short_side} pixels. "
            "Name another folder with data.prepared.folder=DIR, set data.prepared.short_side, or remove this one."
        )
    elif not found.is_current:
        logger.info("The resized copy in %s was made by another version: it is made anew.", folder)
        for path in shard_paths(folder):
            path.unlink()
    else:
        wanted = found
    for path in folder.glob(".*.tmp"):
        path.unlink()
    wanted.write(folder)
    return wanted
