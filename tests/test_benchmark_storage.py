"""The storage benchmark runs at a tiny size, and its contenders do the same work."""

import json

import numpy as np
import pytest

from benchmarks.photos import make_photos
from benchmarks.storage import OURS, describe, epoch, main, stores
from roadwork.data.images import decode_image


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos", 3, size=(320, 240))


def test_every_store_gives_the_same_photos(photos, tmp_path):
    kept = stores(photos, tmp_path, 64)
    for name, store in kept.items():
        for row, photo in enumerate(photos):
            image = store.read(row)
            assert image.shape == (64, 64, 3)
            assert np.abs(image.astype(int) - decode_image(photo.read_bytes(), 64)).mean() < 4, name
        assert store.n_bytes > 0
    raw = kept["raw pixels in Arrow, memory-mapped"].n_bytes
    assert 3 * 74 * 99 * 3 < raw < 3 * 74 * 99 * 3 + 2000  # 1.15 x 64 is 74, at 4:3
    assert kept[OURS].n_bytes < raw


def test_store_summary(photos, tmp_path):
    kept = stores(photos, tmp_path, 64)
    n_bytes = sum(photo.stat().st_size for photo in photos)
    assert describe(kept, photos, 64)["photos, Pillow full decode"].startswith(f"{n_bytes / 3e3:.1f} kB an image, mean")


def test_an_epoch_reads_each_image_once():
    read = []
    store = type("Store", (), {"read": lambda _, row: read.append(row)})()
    assert epoch(store, 9)() == 9
    assert sorted(read) == list(range(9))
    assert read != sorted(read)


def test_storage_benchmark_runs(tmp_path, capsys):
    main(["--images", "2", "--size", "32", "--photo", "160x120", "--repeat", "1", "--json", str(tmp_path / "out.json")])
    written = json.loads((tmp_path / "out.json").read_text())
    ours, *others = written["lines"]
    assert (ours["name"], ours["ours_ratio"], len(others)) == (OURS, None, 4)
    for line in others:
        assert line["ours_ratio"] == pytest.approx(ours["images_per_s"] / line["images_per_s"])
    assert (written["images"], written["size"], written["photo"]) == (2, 32, "160x120")
    assert "2 photos of 160x120" in capsys.readouterr().out
