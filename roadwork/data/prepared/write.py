"""Writes a resized copy with a pool of processes."""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, starmap
from pathlib import Path
from typing import Any, TypeVar

from roadwork.core.errors import DataError
from roadwork.core.progress import new_progress, track
from roadwork.data.images import UnreadableImage
from roadwork.data.prepared.copy import index_copy
from roadwork.data.prepared.plan import CopyPlan, ResizedPhoto, resize_photos, select_rows, start_worker
from roadwork.data.prepared.shards import (
    MAX_BYTES,
    MAX_ROWS,
    Manifest,
    Record,
    find_damage,
    read_manifest,
    shard_paths,
    wanted_folder,
    wanted_short_side,
    write_shard,
)
from roadwork.data.source import dataset_key
from roadwork.settings import DataSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")
_ROWS_PER_JOB = 8
_JOBS_AHEAD = 3  # per process, so that one slow photo does not block the others


@contextmanager
def lock_copy(data: DataSettings) -> Iterator[Manifest]:
    """Creates and locks the folder of the configured copy; yields its manifest.

    Raises:
        DataError: another process holds the lock, or the folder holds something else.
    """
    folder = wanted_folder(data)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:  # the lock ends with the process
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"Another `roadwork prepare` is writing to {folder}. Wait for it, or stop it.") from error
        yield _prepare_folder(data)


def _prepare_folder(data: DataSettings) -> Manifest:
    """Removes leftovers of a killed process and shards of another version; returns the manifest."""
    folder = wanted_folder(data)
    wanted = Manifest(dataset_key(data), wanted_short_side(data))
    found = read_manifest(folder)
    if found is None:
        foreign = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        if foreign:
            raise DataError(
                f"{folder} holds {', '.join(sorted(foreign)[:3])} but no manifest of a resized copy. "
                "Name an empty folder with data.prepared.folder=DIR, or remove this one."
            )
    elif (found.dataset, found.short_side) != (wanted.dataset, wanted.short_side):
        what = "of another dataset" if found.dataset != wanted.dataset else f"with a short side of {found.short_side}"
        raise DataError(
            f"{folder} holds a resized copy {what}; configured is this dataset with {wanted.short_side} pixels. "
            "Name another folder with data.prepared.folder=DIR, set data.prepared.short_side, or remove this one."
        )
    elif not found.is_current:
        logger.info("The resized copy in %s is from another version; rebuilding it.", folder)
        for path in shard_paths(folder):
            path.unlink()
    else:
        wanted = found
    for path in folder.glob(".*.tmp"):
        path.unlink()
    wanted.write(folder)
    return wanted


@dataclass(frozen=True)
class CopySummary:
    """Result of writing a copy.

    Attributes:
        n_written: images written now.
        n_held: rows of the table with an up-to-date image in the copy.
        n_bytes: size of the copy on disk.
        unreadable: rows that cannot be read, with the reason.
        seconds: duration.
    """

    n_written: int
    n_held: int
    n_bytes: int
    unreadable: list[UnreadableImage]
    seconds: float


def write_copy(plan: CopyPlan, processes: int) -> CopySummary:
    """Resizes the plan's rows into shards; finished shards survive an interruption.

    Raises:
        DataError: a worker process was killed.
    """
    started = time.perf_counter()
    unreadable: list[UnreadableImage] = []
    photos = _with_progress(_resize_all(plan, processes), len(plan.rows))
    n_written = 0
    for records in _by_shard(_readable(plan, photos, unreadable)):
        write_shard(plan.folder, records)
        n_written += len(records)
    return _finish(plan, n_written, unreadable, time.perf_counter() - started)


def _readable(plan: CopyPlan, photos: Iterator[ResizedPhoto], unreadable: list[UnreadableImage]) -> Iterator[Record]:
    """Records of the readable photos; the others are appended to `unreadable`."""
    for row, photo in zip(plan.rows.tolist(), photos, strict=True):
        if photo.reason:
            unreadable.append(UnreadableImage(row, photo.reason))
        else:
            yield Record(str(plan.table.ids[row]), photo.identity, photo.jpeg)


def _by_shard(records: Iterator[Record]) -> Iterator[list[Record]]:
    shard: list[Record] = []
    n_bytes = 0
    for record in records:
        shard.append(record)
        n_bytes += len(record.jpeg)
        if len(shard) == MAX_ROWS or n_bytes >= MAX_BYTES:
            yield shard
            shard, n_bytes = [], 0
    if shard:
        yield shard


def _finish(plan: CopyPlan, n_written: int, unreadable: list[UnreadableImage], seconds: float) -> CopySummary:
    paths = shard_paths(plan.folder)
    index = index_copy(paths, plan.table, plan.source)
    n_bytes = sum(path.stat().st_size for path in paths)
    without = {str(plan.table.ids[image.row]): index.identities[image.row] for image in unreadable}
    replace(plan.manifest, rows=int(index.has.sum()), n_bytes=n_bytes, unreadable=without).write(plan.folder)
    return CopySummary(n_written, int(index.has.sum()), n_bytes, unreadable, seconds)


def _with_progress(photos: Iterator[ResizedPhoto], total: int) -> Iterator[ResizedPhoto]:
    with new_progress() as progress:
        task = progress.add_task("Resizing photos", total=total)
        for photo in photos:
            yield photo
            speed = progress.tasks[0].speed
            progress.update(task, advance=1, description=f"Resizing photos, {speed or 0:.1f} images/s")


def _resize_all(plan: CopyPlan, processes: int) -> Iterator[ResizedPhoto]:
    """The plan's photos, resized, in order."""
    starts = range(0, len(plan.rows), _ROWS_PER_JOB)
    jobs = (plan.rows[start : start + _ROWS_PER_JOB].tolist() for start in starts)
    calls = ((*select_rows(plan.source, job), plan.manifest.short_side) for job in jobs)
    yield from chain.from_iterable(_in_order(resize_photos, calls, min(processes, len(starts))))


def _in_order(function: Callable[..., T], calls: Iterable[tuple[Any, ...]], processes: int) -> Iterator[T]:
    """Results of `function` in the order of `calls`; a limited number runs ahead, which bounds memory."""
    if processes <= 1:
        yield from starmap(function, calls)
        return
    with _pool(processes) as pool:
        pending: deque[Future[T]] = deque()
        for call in calls:
            pending.append(pool.submit(function, *call))
            if len(pending) >= processes * _JOBS_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of spawned processes (a fork of a process with threads can hang) that end with this one."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=start_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise DataError(
            "A worker process was killed, perhaps out of memory. Finished shards are kept: run the command again with "
            f"fewer processes than --processes {processes}."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def remove_damaged(folder: Path, short_side: int, processes: int) -> list[str]:
    """Removes the shards with an image that cannot be decoded; returns the damage of each."""
    paths = shard_paths(folder)
    reasons = _in_order(find_damage, ((path, short_side) for path in paths), min(processes, len(paths)))
    found = list(track(reasons, len(paths), "Checking shards"))
    for path, reason in zip(paths, found, strict=True):
        if reason:
            path.unlink()
    return [reason for reason in found if reason]
