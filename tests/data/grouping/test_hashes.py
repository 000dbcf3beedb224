"""Images are hashed once, and again after a change; hashes equal imagehash's."""

import io
import logging

import imagehash
import numpy as np
import pytest
from PIL import Image

from roadwork.data.grouping import near_duplicates as hashes_module
from roadwork.data.grouping.near_duplicates import hash_image, image_hashes
from roadwork.data.images import FileImages


def scene(seed, size=(320, 240)):
    """A smooth image that differs from those of other seeds."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def jpeg(image, quality=90):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / f"{i}.jpg" for i in range(6)]
    for i, path in enumerate(paths):
        path.write_bytes(jpeg(scene(i)))
    return paths


@pytest.fixture
def hashed(monkeypatch):
    """Collects the encoded images that are hashed."""
    calls = []
    monkeypatch.setattr(hashes_module, "hash_image", lambda data: calls.append(data) or hash_image(data))
    return calls


def names_of(paths):
    return np.array([path.name for path in paths], dtype=object)


def equal(a, b):
    return np.array_equal(a.hashes, b.hashes) and np.array_equal(a.thumbnails, b.thumbnails)


def test_hash_is_near_imagehash_of_the_full_image():
    for seed in range(20):
        image = scene(seed, (1280, 960))
        value, thumbnail = hash_image(jpeg(image))
        expected = int(str(imagehash.phash(image)), 16)
        assert (value ^ expected).bit_count() <= 2  # it looks at the picture at 64 x 64
        grey = np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX), dtype=int)
        assert abs(thumbnail.reshape(16, 16) - grey).max() < 12
        assert abs(thumbnail.reshape(16, 16) - grey).mean() < 2


def test_hashed_once_then_read_from_the_cache_in_any_order(photos, tmp_path, hashed):
    cache = tmp_path / "new folder" / "hashes.npz"
    first = image_hashes(FileImages(photos), names_of(photos), cache)
    assert first.known.all()
    assert len(set(first.hashes)) == len(hashed) == len(photos)
    order = [3, 0, 5, 1]
    some = [photos[i] for i in order]
    again = image_hashes(FileImages(some), names_of(some), cache)
    assert len(hashed) == len(photos)
    assert np.array_equal(again.hashes, first.hashes[order])
    assert np.array_equal(again.thumbnails, first.thumbnails[order])
    assert [path.name for path in cache.parent.iterdir()] == ["hashes.npz"]


def test_only_changed_or_renamed_images_are_hashed_again(photos, tmp_path, hashed):
    cache = tmp_path / "hashes.npz"
    image_hashes(FileImages(photos), names_of(photos), cache)
    hashed.clear()
    photos[1].write_bytes(jpeg(scene(1), quality=40))
    photos[2].write_bytes(jpeg(scene(77)))
    photos[3] = photos[3].rename(tmp_path / "renamed.jpg")
    found = image_hashes(FileImages(photos), names_of(photos), cache)
    assert sorted(hashed) == sorted(photos[i].read_bytes() for i in (1, 2, 3))
    for path, value, thumbnail in zip(photos, found.hashes, found.thumbnails, strict=True):
        expected, pixels = hash_image(path.read_bytes())
        assert int(value) == expected
        assert np.array_equal(thumbnail, pixels)


def test_images_with_equal_length_and_ends_keep_their_hashes(tmp_path):
    """Phones append identical trailers."""
    encoded = [jpeg(scene(i)) for i in range(2)]
    size = max(map(len, encoded)) + 100
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for path, data in zip(paths, encoded, strict=True):
        path.write_bytes(data.ljust(size, b"\0"))
    source, cache = FileImages(paths), tmp_path / "hashes.npz"
    assert source.read_ends(0) == source.read_ends(1)
    first = image_hashes(source, names_of(paths), cache)
    assert first.hashes[0] != first.hashes[1]
    assert equal(image_hashes(source, names_of(paths), cache), first)


def test_unreadable_images_have_no_hash_and_are_read_again(photos, tmp_path):
    whole = photos[4].read_bytes()
    photos[0].unlink()
    photos[4].write_bytes(b"no image")
    cache = tmp_path / "hashes.npz"
    found = image_hashes(FileImages(photos), names_of(photos), cache)
    assert list(found.known) == [False, True, True, True, False, True]
    photos[4].write_bytes(whole)
    assert image_hashes(FileImages(photos), names_of(photos), cache).known[4]


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:900] + b"?" + data[901:]]
)
def test_damaged_cache_is_rebuilt_with_a_warning(photos, tmp_path, caplog, damage):
    cache = tmp_path / "hashes.npz"
    expected = image_hashes(FileImages(photos), names_of(photos), cache)
    whole = cache.read_bytes()
    cache.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING):
        assert equal(image_hashes(FileImages(photos), names_of(photos), cache), expected)
    assert "is damaged" in caplog.text
    assert cache.read_bytes() == whole


def test_unwritable_cache_is_warned_about_and_skipped(photos, tmp_path, caplog):
    expected = image_hashes(FileImages(photos), names_of(photos), tmp_path / "hashes.npz")
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        assert equal(image_hashes(FileImages(photos), names_of(photos), tmp_path / "file/hashes.npz"), expected)
    assert "hashes" in caplog.text
    assert "ROADWORK_CACHE" in caplog.text


def test_cache_of_another_version_is_not_used(photos, tmp_path, hashed, monkeypatch):
    cache = tmp_path / "hashes.npz"
    image_hashes(FileImages(photos), names_of(photos), cache)
    monkeypatch.setattr(hashes_module, "_VERSION", 99)
    image_hashes(FileImages(photos), names_of(photos), cache)
    assert len(hashed) == 2 * len(photos)


def test_interruption_keeps_finished_hashes(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(hashes_module, "_IMAGES_PER_WRITE", 2)
    monkeypatch.setattr(hashes_module, "_CHUNK_ROWS", 2)
    last = photos[5].read_bytes()

    def interrupted(data):
        if data == last:
            raise KeyboardInterrupt
        return hash_image(data)

    monkeypatch.setattr(hashes_module, "hash_image", interrupted)
    cache = tmp_path / "hashes.npz"
    with pytest.raises(KeyboardInterrupt):
        image_hashes(FileImages(photos), names_of(photos), cache)
    with np.load(cache) as content:
        assert len(content["keys"]) == 4


def test_no_images(tmp_path):
    found = image_hashes(FileImages([]), np.empty(0, dtype=object), tmp_path / "hashes.npz")
    assert found.hashes.shape == (0,)
    assert found.thumbnails.shape == (0, 256)
