"""Read-ahead: order, bounded memory, unreadable photos and camera metadata."""

import gc
import threading
import time
import weakref

import numpy as np
import pytest
import torch
from fixtures.detectors import SIZE
from fixtures.photos import BERLIN, RIO, jpeg, write_unreadable

from roadwork.data.images import read_pixels
from roadwork.data.utils.exif import read_camera_metadata
from roadwork.detector.photos import MAX_BYTES, Photo, PhotoFiles, read_file
from roadwork.detector.predict import PredictOptions, in_batches, map_ahead, read_batches, read_photo


def test_results_keep_their_order():
    def slow_at_first(number):
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number

    assert list(map_ahead(slow_at_first, range(40), threads=4, ahead=8)) == list(range(40))
    assert list(map_ahead(slow_at_first, [], threads=4, ahead=8)) == []
    assert list(in_batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_results_in_memory_are_bounded():
    """The consumer is slow, so an unbounded queue would fill."""
    alive: weakref.WeakSet = weakref.WeakSet()
    begun, lock, most = [], threading.Lock(), 0

    class Picture:
        pass

    def decode(number):
        picture = Picture()
        with lock:
            begun.append(number)
            alive.add(picture)
        return picture

    ahead, size = 6, 4
    for n_batches, batch in enumerate(in_batches(map_ahead(decode, range(200), threads=3, ahead=ahead), size), 1):
        time.sleep(0.002)
        with lock:
            most = max(most, len(alive))
        assert len(begun) <= n_batches * size + ahead
        del batch
    assert len(begun) == 200
    assert size < most <= size + ahead
    gc.collect()
    assert not alive


def test_decoded_photos_in_memory_are_bounded(tmp_path, monkeypatch):
    """In the real stream: counts the decoded photos, and the consumed part of the list."""
    from roadwork.detector import predict as judging

    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0

    def read(photo, size, views):
        result = read_photo(photo, size, views)
        alive.add(result.pixels)
        return result

    monkeypatch.setattr(judging, "read_photo", read)
    path = tmp_path / "one.jpg"
    path.write_bytes(jpeg())
    found = PhotoFiles([f"{number}.jpg" for number in range(120)], [str(path)] * 120)

    class Sized:
        class preprocessing:  # noqa: N801
            size = SIZE

    options = PredictOptions(batch_size=8, workers=2)
    for batch in read_batches(found, np.ones(120, dtype=bool), Sized, options):
        time.sleep(0.01)
        most = max(most, len(alive))
        del batch
    assert 8 < most <= 8 + 8 + 2 * 2


def test_early_exit_stops_the_threads():
    begun = []
    results = map_ahead(begun.append, range(10_000), threads=2, ahead=4)
    next(results)
    results.close()
    assert len(begun) <= 6
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_decoding_keeps_the_torch_thread_count():
    torch.set_num_threads(2)
    inside = list(map_ahead(lambda _: torch.get_num_threads(), range(8), threads=2, ahead=4))
    assert inside == [1] * 8
    assert torch.get_num_threads() == 2
    torch.zeros(64, 64).sin().sum()
    assert torch.get_num_threads() == 2


def photo_of(path):
    return Photo(0, str(path), path.name, lambda: read_file(str(path)))


def test_unreadable_files_have_a_reason(tmp_path):
    for name, message in write_unreadable(tmp_path).items():
        read = read_photo(photo_of(tmp_path / name), SIZE, "none")
        assert read.pixels is None
        assert message.lower() in read.error.lower(), (name, read.error)
    read = read_photo(Photo(0, "k", "folder", lambda: read_file(str(tmp_path))), SIZE, "none")
    assert read.error == "Is a directory"
    read = read_photo(Photo(0, "k", "zero", lambda: read_file("a\0b")), SIZE, "none")
    assert "null" in read.error


def test_too_large_file_is_not_read(tmp_path):
    path = tmp_path / "video.jpg"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # a sparse file takes no space
    assert f"{MAX_BYTES:,}" in read_photo(photo_of(path), SIZE, "none").error


def test_pixels_match_the_detector(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(3))
    read = read_photo(photo_of(path), SIZE, "none")
    torch.testing.assert_close(read.pixels[0], read_pixels(jpeg(3), SIZE), rtol=0, atol=0)


@pytest.mark.parametrize("gps", [BERLIN, RIO])
def test_camera_metadata(gps):
    facts = read_camera_metadata(jpeg(gps=gps, taken="2024:09:08 10:22:31", offset="+02:00"))
    assert facts[:2] == pytest.approx(gps, abs=1e-9)
    assert facts.captured_at == "2024-09-08T10:22:31+02:00"


@pytest.mark.parametrize(
    ("data", "captured_at"),
    [
        (jpeg(taken="2024:09:08 10:22:31"), "2024-09-08T10:22:31"),
        (jpeg(taken="2024:09:08 10:22:31", offset="   :  "), "2024-09-08T10:22:31"),
        (jpeg(taken="0000:00:00 00:00:00"), ""),
        (jpeg(gps=(0.0, 0.0)), ""),
        (b"", ""),
        (b"\xff\xd8\xff\xe1\x00\x10Exif\0\0MM\0*\xff\xff\xff\xff", ""),
    ],
)
def test_missing_or_damaged_camera_metadata(data, captured_at):
    facts = read_camera_metadata(data)
    assert np.isnan(facts[:2]).all()
    assert facts.captured_at == captured_at
