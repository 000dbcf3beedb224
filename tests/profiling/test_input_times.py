"""Loading times of single images, by origin and part."""

from __future__ import annotations

import time

import numpy as np
import pytest

from roadwork.core.errors import DataError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.images import FileImages
from roadwork.profiling.measure import COPY, N_IMAGES, PHOTOS, RAM, time_input


def _module(config):
    datamodule = NATIXDataModule(config)
    datamodule.setup("fit")
    return datamodule


class _HalfACopy:
    """A resized copy of the rows with even numbers."""

    def image(self, row: int, size: int) -> np.ndarray | None:
        time.sleep(0.004)
        return np.zeros((size, size, 3), np.uint8) if row % 2 == 0 else None


def test_photos_are_read_and_decoded(tiny_config, monkeypatch):
    read = FileImages.read
    monkeypatch.setattr(FileImages, "read", lambda self, row: time.sleep(0.01) or read(self, row))
    times = time_input(_module(tiny_config("data.cache=none")), seed=0)
    assert times.origins == {PHOTOS: N_IMAGES}
    assert times.read_ms.median >= 10 > times.decode_ms.median > 0
    assert times.images_per_s == pytest.approx(1000 / (times.read_ms.mean + times.decode_ms.mean))


def test_images_in_ram_are_reported_and_not_read(tiny_config, monkeypatch):
    datamodule = _module(tiny_config("data.cache=ram"))
    monkeypatch.setattr(FileImages, "read", lambda *_: pytest.fail("RAM holds it"))
    times = time_input(datamodule, seed=0)
    assert times.origins == {RAM: N_IMAGES}
    assert times.read_ms.mean == 0


def test_copy_and_missing_photos_are_timed_separately(tiny_config):
    datamodule = _module(tiny_config("data.cache=none"))
    store = datamodule.datasets["train"].store
    store.copy = _HalfACopy()
    times = time_input(datamodule, seed=0)
    rows = np.random.default_rng(0).permutation(datamodule.datasets["train"].rows)[:N_IMAGES]
    assert times.origins == {COPY: int((rows % 2 == 0).sum()), PHOTOS: int((rows % 2).sum())}
    assert times.decode_ms.p10 > 4  # the time to read the copy, not the photo
    assert isinstance(store.source, FileImages)  # the loader's store is unchanged


def test_no_readable_image_is_an_error(tiny_config, monkeypatch):
    datamodule = _module(tiny_config("data.cache=none", "data.max_unreadable=1.0"))
    monkeypatch.setattr(FileImages, "read", lambda *_: b"no image")
    with pytest.raises(DataError, match=r"24 images.*train"):
        time_input(datamodule, seed=0)
