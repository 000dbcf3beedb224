"""Checkpoint writes are atomic, and a damaged checkpoint is detected and named."""

import logging
import shutil
from types import SimpleNamespace

import pytest
import torch

from roadwork.core.errors import DataError, MachineError
from roadwork.runs.run import LAST, PREVIOUS
from roadwork.training import checkpoints as files
from roadwork.training.checkpoints import SafeCheckpointIO, find_newest, tensor_bytes, why_damaged


def content(step):
    return {"global_step": step, "state_dict": {"weight": torch.full((64, 64), float(step))}, "lists": [torch.ones(3)]}


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


@pytest.fixture
def folder(tmp_path):
    """Two saves of `last.ckpt`."""
    for step in (1, 2):
        SafeCheckpointIO().save_checkpoint(content(step), tmp_path / LAST)
    return tmp_path


def test_newest_two_checkpoints_are_kept(folder):
    assert step_of(folder / LAST) == 2
    assert step_of(folder / PREVIOUS) == 1
    SafeCheckpointIO().save_checkpoint(content(3), folder / LAST)
    SafeCheckpointIO().save_checkpoint(content(9), folder / "best.ckpt")
    assert {path.name: step_of(path) for path in folder.iterdir()} == {LAST: 3, PREVIOUS: 2, "best.ckpt": 9}
    assert find_newest(folder) == folder / LAST


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_failed_write_keeps_earlier_checkpoints(folder, monkeypatch, error):
    def save(checkpoint, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(files.torch, "save", save)
    with pytest.raises(MachineError, match=r"last\.ckpt.*--resume"):
        SafeCheckpointIO().save_checkpoint(content(3), folder / LAST)
    assert {path.name: step_of(path) for path in folder.iterdir()} == {LAST: 2, PREVIOUS: 1}


def test_free_space_is_checked_first(folder, monkeypatch):
    checkpoint = content(3)
    assert tensor_bytes(checkpoint) == 64 * 64 * 4 + 3 * 4
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=tensor_bytes(checkpoint)))
    with pytest.raises(MachineError, match=r"16 MiB.*\b0 MiB"):
        SafeCheckpointIO().save_checkpoint(checkpoint, folder / LAST)
    assert step_of(folder / LAST) == 2


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_checkpoint_falls_back_to_the_previous_one(folder, share, caplog):
    content = (folder / LAST).read_bytes()
    (folder / LAST).write_bytes(content[: int(share * len(content))])
    with caplog.at_level(logging.WARNING):
        assert find_newest(folder) == folder / PREVIOUS
    assert "last.ckpt" in caplog.text


def test_altered_checkpoint_is_reported(folder, caplog):
    content = bytearray((folder / LAST).read_bytes())
    place = content.index(torch.full((4,), 2.0).numpy().tobytes())  # inside the weights, where torch checks nothing
    content[place + 1] ^= 1
    (folder / LAST).write_bytes(bytes(content))
    assert torch.load(folder / LAST, weights_only=True)["global_step"] == 2
    assert "checksum" in why_damaged(folder / LAST)
    with caplog.at_level(logging.WARNING):
        assert find_newest(folder) == folder / PREVIOUS


def test_only_damaged_checkpoints_are_an_error(folder, tmp_path_factory):
    for name in (LAST, PREVIOUS):
        (folder / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"checkpoint.*damaged"):
        find_newest(folder)
    with pytest.raises(DataError, match=r"last\.ckpt.*--resume"):
        find_newest(tmp_path_factory.mktemp("empty"))


def test_leftovers_of_a_killed_write_are_removed(folder):
    (folder / f".{LAST}.123.tmp").write_bytes(b"half")
    (folder / LAST).unlink()  # killed between the two renames
    assert find_newest(folder) == folder / PREVIOUS
    assert [path.name for path in folder.iterdir()] == [PREVIOUS]
