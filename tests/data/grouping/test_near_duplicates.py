"""Copies of a scene are found in any encoding; different scenes with similar hashes are not joined."""

import io
import logging
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

from roadwork.data.grouping.near_duplicates import ImageHashes, find_near_duplicates, hash_image, image_hashes
from roadwork.data.grouping.proximity import component_labels
from roadwork.data.images import FileImages
from roadwork.data.local import read_local
from roadwork.data.open import find_groups
from roadwork.data.source import read_dataset
from roadwork.data.table import SampleTable
from roadwork.settings import DataSettings


def table_of(n, gps=None, sequences=None):
    ids = np.array([f"photo-{i:06d}" for i in range(n)], dtype=object)
    return SampleTable(
        ids=ids,
        filenames=ids,
        labels=np.zeros(n, dtype=np.int64),
        gps=np.full((n, 2), np.nan) if gps is None else np.asarray(gps, dtype=np.float64),
        sequence_ids=np.array(sequences or [""] * n, dtype=object),
        slices=pd.DataFrame(index=range(n)),
    )


def hashes_of(hashes, thumbnails):
    hashes = np.asarray(hashes, dtype=np.uint64)
    return ImageHashes(np.arange(len(hashes), dtype=np.uint64), hashes, thumbnails, np.ones(len(hashes), dtype=bool))


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 256), dtype=np.uint8)


def stored(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def variants(image):
    half = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    yield from (stored(image, quality) for quality in (30, 50, 75, 95))
    yield from (stored(half, 85), stored(half, 30))
    yield from (stored(ImageEnhance.Brightness(image).enhance(factor), 85) for factor in (0.85, 1.1))


@pytest.fixture(scope="module")
def demo(demo_root, tmp_path_factory):
    table, source = read_local(demo_root, {}, {"None": 0, "Roadwork": 1})
    return table, source, image_hashes(source, table.ids, tmp_path_factory.mktemp("hashes") / "hashes.npz")


def test_demo_places_are_not_joined(demo):
    table, _, hashes = demo
    pairs = find_near_duplicates(table, hashes)
    assert len(pairs)
    assert (table.sequence_ids[pairs[:, 0]] == table.sequence_ids[pairs[:, 1]]).all()
    assert (pairs[:, 0] < pairs[:, 1]).all()


def test_reencoded_resized_or_brighter_copies_are_found(demo):
    table, source, hashes = demo
    rows = range(0, len(table), 10)
    copies = [hash_image(data) for row in rows for data in variants(Image.open(io.BytesIO(source.read(row))))]
    n_variants = len(copies) // len(rows)
    values = [*hashes.hashes.tolist(), *(value for value, _ in copies)]
    thumbnails = np.concatenate([hashes.thumbnails, [pixels for _, pixels in copies]])
    pairs = find_near_duplicates(table_of(len(values)), hashes_of(values, thumbnails))
    scene = np.r_[np.arange(len(table)), np.repeat(rows, n_variants)]
    united = component_labels(len(values), pairs)
    assert (united[len(table) :] == united[scene[len(table) :]]).all()
    sequence = table.sequence_ids[scene]
    assert (sequence[pairs[:, 0]] == sequence[pairs[:, 1]]).all()


@pytest.mark.parametrize(
    ("bits", "sign", "is_found"),
    [
        (6, "place", True),
        (6, "sequence", True),
        (6, "pixels", True),
        (6, "none", False),
        (0, "none", False),
        (0, "far", False),
        (8, "place", False),
        (8, "sequence", False),
        (8, "pixels", False),
    ],
)
def test_hash_and_second_criterion_are_both_needed(bits, sign, is_found):
    thumbnails = noise(2)
    if sign == "pixels":
        thumbnails[1] = thumbnails[0] // 2 + 20  # darker, flatter, and the same
    place = {"place": 0.0008, "far": 0.0010}.get(sign)  # 89 and 111 m
    gps = None if place is None else [[0.0, 0.0], [place, 0.0]]
    table = table_of(2, gps, ["a", "a"] if sign == "sequence" else None)
    pairs = find_near_duplicates(table, hashes_of([0, 2**bits - 1], thumbnails))
    assert pairs.tolist() == ([[0, 1]] if is_found else [])


def test_flat_and_unreadable_images_are_never_duplicates():
    flat = np.random.default_rng(0).integers(8, 14, (4, 256), dtype=np.uint8)
    gps = np.full((4, 2), 1.0)
    assert len(find_near_duplicates(table_of(4, gps, ["a"] * 4), hashes_of([5] * 4, flat))) == 0
    hashes = hashes_of([5] * 4, np.repeat(noise(1), 4, axis=0))
    hashes.known[1:3] = False
    assert find_near_duplicates(table_of(4), hashes).tolist() == [[0, 3]]


def test_many_motorways_with_nearly_one_hash_stay_apart():
    """2,000 scenes within 2 bits of each other, 300 of them with the same hash."""
    rng = np.random.default_rng(0)
    turned = np.uint64(1) << rng.integers(0, 64, (2, 1700), dtype=np.uint64)
    hashes = np.r_[np.full(300, 99, np.uint64), np.uint64(99) ^ turned[0] ^ turned[1]]
    motorway = np.linspace(200, 60, 256) + 12 * np.random.default_rng(1).normal(size=(2000, 256))  # sky above road
    thumbnails = motorway.clip(0, 255).astype(np.uint8)
    far_apart = np.c_[np.linspace(-60, 60, 2000), np.linspace(-170, 170, 2000)]
    assert np.corrcoef(thumbnails[:2])[0, 1] > 0.9
    pairs = find_near_duplicates(table_of(2000, far_apart), hashes_of(hashes, thumbnails))
    assert len(pairs) == 0


def test_many_images_of_one_hash_are_linked_in_linear_time():
    """50,000 images of 20 scenes with one hash: 1.2 billion pairs."""
    scenes = noise(20)
    of_row = np.random.default_rng(0).integers(0, 20, 50_000)
    table, hashes = table_of(50_000), hashes_of(np.full(50_000, 7), scenes[of_row])
    start = time.process_time()
    pairs = find_near_duplicates(table, hashes)
    assert time.process_time() - start < 20
    assert len(pairs) == 50_000 - 20
    assert (of_row[pairs[:, 0]] == of_row[pairs[:, 1]]).all()
    assert len(set(component_labels(50_000, pairs))) == 20


def test_images_of_one_hash_are_compared_with_other_hashes():
    thumbnails = np.repeat(noise(1), 101, axis=0)
    pairs = find_near_duplicates(table_of(101), hashes_of([7] * 100 + [6], thumbnails))
    assert len(set(component_labels(101, pairs))) == 1


def test_too_many_scenes_of_one_hash_are_warned_about(caplog):
    with caplog.at_level(logging.WARNING):
        assert len(find_near_duplicates(table_of(1200), hashes_of(np.full(1200, 7), noise(1200)))) == 0
    assert "200 images share one perceptual hash" in caplog.text


def test_row_order_does_not_change_the_pairs():
    rng = np.random.default_rng(0)
    scenes = noise(40)
    of_row = rng.integers(0, 40, 400)
    values = rng.integers(0, 2**63, 4, dtype=np.uint64)[of_row % 4]
    order = rng.permutation(400)
    table = table_of(400)
    pairs = find_near_duplicates(table, hashes_of(values, scenes[of_row]))
    moved = find_near_duplicates(table.take(order), hashes_of(values[order], scenes[of_row[order]]))
    assert np.array_equal(np.unique(np.sort(order[moved], axis=1), axis=0), pairs)


def test_no_rows():
    assert find_near_duplicates(table_of(0), hashes_of([], np.empty((0, 256), np.uint8))).shape == (0, 2)


def test_copied_file_in_a_folder_is_found(tmp_path, demo):
    _, source, _ = demo
    original = Image.open(io.BytesIO(source.read(0)))
    (tmp_path / "a.jpg").write_bytes(source.read(0))
    (tmp_path / "b.jpg").write_bytes(source.read(4))
    original.save(tmp_path / "c.webp", quality=60)
    files = FileImages([tmp_path / name for name in ("a.jpg", "b.jpg", "c.webp")])
    table = table_of(3)
    assert find_near_duplicates(table, image_hashes(files, table.ids, tmp_path / "h.npz")).tolist() == [[0, 2]]


@pytest.mark.parametrize("same_bytes", [True, False])
def test_photos_under_both_labels_are_named(tmp_path, caplog, same_bytes):
    rng = np.random.default_rng(0)
    for folder in ("None", "Roadwork"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            blocks = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            blocks.resize((160, 120), Image.Resampling.BICUBIC).save(tmp_path / folder / f"{number}.jpg", quality=90)
    data = DataSettings(root=str(tmp_path))
    find_groups(data, *read_dataset(data))
    assert not caplog.records
    again = tmp_path / "Roadwork" / "again.jpg"
    if same_bytes:
        again.write_bytes((tmp_path / "None" / "1.jpg").read_bytes())
    else:
        Image.open(tmp_path / "None" / "1.jpg").save(again, quality=70)
    find_groups(data, *read_dataset(data))
    [record] = caplog.records
    assert record.getMessage().startswith("1 pairs")
    assert f"of the first 1, {int(same_bytes)} have the same bytes" in record.getMessage()
    assert "None/1.jpg is 0 and Roadwork/again.jpg is 1" in record.getMessage()
