"""Training reads the same images from the copy as from the photos, with a warning if it cannot."""

import os
import pickle
import re
import shutil

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from roadwork.data.dataset import ImageStore, RoadworkDataset, collate
from roadwork.data.images import decode_image
from roadwork.data.prepared.plan import select_rows
from roadwork.data.prepared.shards import MANIFEST, read_manifest, shard_paths, wanted_folder, wanted_short_side
from roadwork.data.source import read_dataset
from roadwork.settings import DataSettings, HubSettings


def change(path):
    """Replaces a photo by another one with a later time."""
    shutil.copy(next(p for p in sorted(path.parent.iterdir()) if p != path), path)
    os.utime(path, ns=(1, 1))


def assert_close(image, expected, limit=3.0):
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < limit


def test_every_row_is_read_from_the_copy(photo_set, caplog):
    photo_set.prepare()
    with caplog.at_level("INFO"):
        _, source, copy = photo_set.find()
    folder = wanted_folder(photo_set.data())
    assert f"the resized copy in {folder} (short side 37 pixels)" in caplog.text
    assert (copy.folder, copy.short_side, copy.has.all(), len(copy.has)) == (folder, 37, True, photo_set.N_PHOTOS)
    images = [decode_image(source.read(row), 32) for row in range(photo_set.N_PHOTOS)]
    for row in range(photo_set.N_PHOTOS):
        assert_close(copy.image(row, 32), images[row])
        others = [
            np.abs(images[row].astype(int) - images[other]).mean()
            for other in range(photo_set.N_PHOTOS)
            if other != row
        ]
        assert min(others) > 6  # so that a mixed-up row would show
    assert len(shard_paths(folder)) == -(-photo_set.N_PHOTOS // photo_set.ROWS_PER_SHARD)


def test_default_is_a_little_larger_than_the_images(photo_set):
    assert [wanted_short_side(photo_set.data(size)) for size in (32, 100, 224, 640)] == [37, 115, 258, 736]
    assert wanted_short_side(photo_set.data(short_side=48)) == 48


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.integers(0, 19), unique=True, min_size=1))
def test_rows_are_found_by_id_in_any_order(photo_set, order):
    photo_set.write_labels()
    photo_set.prepare()
    before, _, copy = photo_set.find()
    images = {row_id: copy.image(row, 32) for row, row_id in enumerate(before.ids)}
    photo_set.write_labels(order)
    table, _, copy = photo_set.find()
    assert table.filenames.tolist() == [photo_set.rows[number]["filename"] for number in order]
    assert copy.has.all()
    for row, row_id in enumerate(table.ids):
        np.testing.assert_array_equal(copy.image(row, 32), images[row_id])


def test_changed_photo_is_read_from_source_until_prepared_again(photo_set, caplog):
    photo_set.prepare()
    change(photo_set.photo(3))
    table, source, copy = photo_set.find()
    changed = table.filenames.tolist().index(photo_set.rows[3]["filename"])
    assert np.flatnonzero(~copy.has).tolist() == [changed]
    assert copy.image(changed, 32) is None
    assert re.search(rf"\b1 .*changed.*{photo_set.rows[3]['filename']}.*`roadwork prepare`", caplog.text)
    plan, summary = photo_set.prepare()
    assert (plan.rows.tolist(), summary.n_written, summary.n_held) == ([changed], 1, photo_set.N_PHOTOS)
    caplog.clear()
    _, _, copy = photo_set.find()
    assert_close(copy.image(changed, 32), decode_image(source.read(changed), 32))
    assert not caplog.records


def test_new_rows_are_named(photo_set, caplog):
    photo_set.write_labels(range(photo_set.N_PHOTOS - 2))
    photo_set.prepare()
    photo_set.write_labels()
    _, _, copy = photo_set.find()
    assert (~copy.has).sum() == 2
    assert "2 rows" in caplog.text


def test_unused_shards_are_removed(photo_set):
    photo_set.prepare()
    for number in range(photo_set.N_PHOTOS):
        photo_set.photo(number).touch()
    before = set(shard_paths(wanted_folder(photo_set.data())))
    _, summary = photo_set.prepare()
    after = set(shard_paths(wanted_folder(photo_set.data())))
    assert (summary.n_written, len(after), after & before) == (photo_set.N_PHOTOS, len(before), set())


def test_missing_photos_are_read_from_the_copy(photo_set):
    photo_set.prepare()
    (photo_set.root / "images").rename(photo_set.root / "away")
    assert photo_set.find()[2] is None
    _, summary = photo_set.prepare()
    assert (summary.n_written, len(summary.unreadable)) == (0, photo_set.N_PHOTOS)
    (photo_set.root / "away").rename(photo_set.root / "images")
    assert photo_set.find()[2].has.all()


def damage(path):
    """Flips bits of an image, not of the shard's header or footer."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def test_damaged_picture_falls_back_to_the_photo_with_a_warning(photo_set, caplog):
    photo_set.prepare()
    for path in shard_paths(wanted_folder(photo_set.data())):
        damage(path)
    _, source, copy = photo_set.find()
    assert copy.has.all()  # not found on opening
    store = ImageStore(source, 32, copy=copy)
    n_damaged = 0
    for row in range(photo_set.N_PHOTOS):
        expected = decode_image(source.read(row), 32)
        if copy.image(row, 32) is None:
            n_damaged += 1
            np.testing.assert_array_equal(store.get(row).numpy().transpose(1, 2, 0), expected)
        else:
            assert_close(copy.image(row, 32), expected)
    assert n_damaged == -(-photo_set.N_PHOTOS // photo_set.ROWS_PER_SHARD)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "checksum" in caplog.text
    assert "`roadwork prepare --verify`" in caplog.text


def test_copy_deleted_while_being_read(photo_set, caplog):
    photo_set.prepare()
    _, _, copy = photo_set.find()
    shutil.rmtree(copy.folder)
    assert copy.image(0, 32) is None
    assert "No such file" in caplog.text


def test_damaged_shard_is_named_and_redone(photo_set, caplog):
    photo_set.prepare()
    path = shard_paths(wanted_folder(photo_set.data()))[1]
    path.write_bytes(path.read_bytes()[:-100])
    _, _, copy = photo_set.find()
    assert 0 < (~copy.has).sum() <= photo_set.ROWS_PER_SHARD
    assert "1 shards" in caplog.text
    plan, summary = photo_set.prepare()
    assert plan.rows.tolist() == np.flatnonzero(~copy.has).tolist()
    assert summary.n_held == photo_set.N_PHOTOS
    assert path.name in caplog.text


def test_workers_read_the_copy(photo_set):
    photo_set.prepare()
    table, source, copy = photo_set.find()
    alone = [copy.image(row, 32) for row in range(photo_set.N_PHOTOS)]
    again = pickle.loads(pickle.dumps(copy))
    np.testing.assert_array_equal(again.image(7, 32), alone[7])
    shutil.rmtree(photo_set.root / "images")  # so that it can only come from the copy
    dataset = RoadworkDataset(table, np.arange(photo_set.N_PHOTOS), ImageStore(source, 32, copy=copy))
    loader = DataLoader(dataset, batch_size=8, num_workers=2, collate_fn=collate)
    images = torch.cat([batch["image"] for batch in loader]).numpy()
    np.testing.assert_array_equal(images, np.stack(alone).transpose(0, 3, 1, 2))


def test_hugging_face_mode(photo_set, demo_parquet):
    data = DataSettings(mode="huggingface", hub=HubSettings(name=str(demo_parquet)), img_size=32)
    _, summary = photo_set.prepare(data=data)
    assert summary.n_held == summary.n_written == 240
    _, source, copy = photo_set.find(data)
    for row in (0, 100, 239):
        assert_close(copy.image(row, 32), decode_image(source.read(row), 32))
    assert photo_set.prepare(data=data)[1].n_written == 0
    sent, rows = pickle.loads(pickle.dumps(select_rows(source, [100])))  # as to a process of the pool
    assert sent.read(rows[0]) == source.read(100)


def test_manifest(photo_set):
    _, summary = photo_set.prepare()
    folder = wanted_folder(photo_set.data())
    manifest = read_manifest(folder)
    assert (manifest.rows, manifest.n_bytes, manifest.short_side) == (photo_set.N_PHOTOS, summary.n_bytes, 37)
    assert summary.n_bytes == sum(path.stat().st_size for path in shard_paths(folder))
    (folder / MANIFEST).write_text("{")
    assert read_manifest(folder) is None
    assert read_dataset(photo_set.data())[0].ids.tolist() == photo_set.find()[0].ids.tolist()
