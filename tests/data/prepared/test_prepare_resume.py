"""A preparation killed at any point resumes where it stopped, and ends with the same copy."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from roadwork.core.errors import DataError
from roadwork.data.prepared import write
from roadwork.data.prepared.shards import open_shard, read_all, shard_paths, wanted_folder
from roadwork.data.prepared.write import lock_copy

FORK = multiprocessing.get_context("fork")
CHECKOUT = Path(__file__).resolve().parents[3]


def killed_in(photo_set, where, name, at, *, before):
    """Prepares in a process that exits abruptly in the n-th call of a function, before or after the call."""
    process = FORK.Process(target=prepare_and_die, args=(photo_set, where, name, at, before))
    process.start()
    process.join(60)
    return process.exitcode


def prepare_and_die(photo_set, where, name, at, before):
    function, calls = getattr(where, name), []

    def killing(*args, **kwargs):
        calls.append(name)
        if len(calls) == at and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(where, name, killing)
    photo_set.prepare()


def content(folder):
    """All images by id."""
    shards = [open_shard(path) for path in shard_paths(folder)]
    return {row_id: jpeg for shard in shards for row_id, jpeg in zip(shard.ids, read_all(shard), strict=True)}


@pytest.fixture
def uninterrupted(photo_set):
    """Content of a copy made without interruption; its folder is cleared for the test."""
    photo_set.prepare()
    folder = wanted_folder(photo_set.data())
    made = content(folder)
    for path in folder.iterdir():
        path.unlink()
    assert len(made) == photo_set.N_PHOTOS
    return made


@pytest.mark.parametrize(
    ("where", "name", "at", "before", "n_shards"),
    [
        (os, "fsync", 1, True, 0),  # in the first manifest
        (os, "fsync", 3, True, 1),  # the second shard is written, not yet synced
        (Path, "replace", 3, True, 1),  # synced, not yet in its place
        (Path, "replace", 3, False, 2),  # in its place
        (write, "write_shard", 4, True, 3),
        (write, "resize_photos", 3, False, 2),  # rows wait for their shard
        (os, "fsync", 6, True, 4),  # in the last manifest
    ],
)
def test_killed_and_resumed(photo_set, uninterrupted, where, name, at, before, n_shards):
    assert killed_in(photo_set, where, name, at, before=before) == -signal.SIGKILL
    folder = wanted_folder(photo_set.data())
    assert len(shard_paths(folder)) == n_shards
    kept = {path: path.stat().st_mtime_ns for path in shard_paths(folder)}
    _, summary = photo_set.prepare()
    assert summary.n_written == max(0, photo_set.N_PHOTOS - n_shards * photo_set.ROWS_PER_SHARD)
    assert content(folder) == uninterrupted
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in shard_paths(folder)}.items()
    assert not list(folder.glob(".*.tmp"))


# Rests after each shard, so that there is time to kill it.
SLOW = """
import time
import roadwork.data.prepared.write as write
from roadwork.cli import main

write.MAX_ROWS, write_shard = {rows}, write.write_shard
write.write_shard = lambda *args: (write_shard(*args), time.sleep(60))
main(["prepare", "--config", {config!r}, "data.root={root}", "data.img_size=32", "--processes", "2"])
"""


def alive(pids):
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_killed_from_outside_leaves_no_process_behind(photo_set, uninterrupted):
    script = SLOW.format(
        rows=photo_set.ROWS_PER_SHARD, root=photo_set.root, config=str(CHECKOUT / "configs" / "config.yaml")
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    folder = wanted_folder(photo_set.data())
    deadline = time.monotonic() + 120
    while not shard_paths(folder):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.kill()
    process.wait()
    process.stdout.close()
    while alive(children):
        assert time.monotonic() < deadline, f"left behind: {alive(children)}"
        time.sleep(0.05)
    photo_set.prepare()
    assert content(folder) == uninterrupted


def test_ctrl_c_keeps_finished_shards(photo_set, monkeypatch):
    resize, calls = write.resize_photos, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return resize(*args)

    monkeypatch.setattr(write, "resize_photos", interrupted)
    with pytest.raises(KeyboardInterrupt):
        photo_set.prepare()
    monkeypatch.setattr(write, "resize_photos", resize)
    plan, summary = photo_set.prepare()
    assert (int(plan.index.has.sum()), summary.n_held) == (2 * photo_set.ROWS_PER_SHARD, photo_set.N_PHOTOS)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_process_of_the_pool_that_is_killed(photo_set, monkeypatch):
    monkeypatch.setattr(write, "resize_photos", die)
    monkeypatch.setattr(write.multiprocessing, "get_context", lambda _: FORK)  # starts at once
    with pytest.raises(DataError, match=r"--processes 2"):
        photo_set.prepare(processes=2)


def test_one_writer_at_a_time(photo_set):
    with lock_copy(photo_set.data()), pytest.raises(DataError, match="`roadwork prepare`"):
        photo_set.prepare()
    photo_set.prepare()
