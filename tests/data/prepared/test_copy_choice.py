"""Which copy is used, and the messages if none fits."""

import json
import re

import pytest

from roadwork.core.errors import DataError
from roadwork.data.prepared.shards import MANIFEST, shard_paths, wanted_folder
from roadwork.data.prepared.write import lock_copy
from roadwork.settings import DataSettings, PreparedSettings


def test_copy_modes_never_and_none(photo_set, caplog):
    assert photo_set.find()[2] is None
    photo_set.prepare()
    assert photo_set.find(photo_set.data(use="never"))[2] is None
    assert not caplog.records


def test_require_needs_a_complete_copy(photo_set):
    required = photo_set.data(use="require")
    with pytest.raises(DataError, match=r"-37-r1\b.*`roadwork prepare`"):
        photo_set.find(required)
    photo_set.prepare()
    assert photo_set.find(required)[2].has.all()
    photo_set.photo(3).touch()
    with pytest.raises(DataError, match=r"\b1 photos.*\.jpg\).*require.*`roadwork"):
        photo_set.find(required)


def test_require_ignores_unreadable_photos(photo_set):
    photo_set.photo(0).write_bytes(b"no picture")
    photo_set.photo(1).unlink()
    _, summary = photo_set.prepare()
    assert len(summary.unreadable) == 2
    copy = photo_set.find(photo_set.data(use="require"))[2]
    assert copy.has.sum() == photo_set.N_PHOTOS - 2
    photo_set.photo(0).write_bytes(b"no picture either")
    with pytest.raises(DataError, match=r"\b1 rows"):
        photo_set.find(photo_set.data(use="require"))


def test_larger_copy_of_the_same_dataset_is_used(photo_set, caplog):
    for short_side in (120, 60):
        photo_set.prepare(data=photo_set.data(short_side=short_side))
    with caplog.at_level("INFO"):
        assert photo_set.find()[2].short_side == 60
    assert re.search(r"short side 37\b.*\b60\b", caplog.text)
    with lock_copy(photo_set.data()):
        pass  # a preparation that stopped before its first shard
    assert photo_set.find()[2].short_side == 60
    photo_set.prepare()
    assert photo_set.find()[2].short_side == 37


def test_copy_that_is_too_small_is_named(photo_set, caplog):
    photo_set.prepare()
    assert photo_set.find(photo_set.data(img_size=64))[2] is None
    assert "37 pixels is below data.img_size, 64" in caplog.text


@pytest.mark.parametrize(("field", "value"), [("reader", 0), ("format", 0), ("quality", 10)])
def test_copy_of_another_version_is_rebuilt(photo_set, caplog, field, value):
    photo_set.prepare()
    manifest = wanted_folder(photo_set.data()) / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {field: value}))
    assert photo_set.find()[2] is None
    assert "reader version" in caplog.text
    assert photo_set.prepare()[1].n_written == photo_set.N_PHOTOS
    assert photo_set.find()[2].has.all()


def test_copy_in_a_user_folder(photo_set, tmp_path, caplog):
    data = photo_set.data(folder=str(tmp_path / "own"))
    assert photo_set.find(data)[2] is None
    assert f"data.prepared.folder is {tmp_path / 'own'}" in caplog.text
    photo_set.prepare(data=data)
    assert photo_set.find(data)[2].folder == tmp_path / "own"
    assert photo_set.find(photo_set.data())[2] is None  # the cache has none
    assert photo_set.find(photo_set.data(folder=str(tmp_path / "own"), short_side=40))[2].short_side == 37


def test_other_folders_are_not_changed(photo_set, tmp_path, demo_root):
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.arrow").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis\.arrow.*manifest"):
        photo_set.prepare(data=photo_set.data(folder=str(own)))
    assert (own / "thesis.arrow").read_text() == "years of work"
    (own / "thesis.arrow").unlink()
    photo_set.prepare(data=photo_set.data(folder=str(own)))
    with pytest.raises(DataError, match=r"short side.*\b37\b.*\b48\b"):
        photo_set.prepare(data=photo_set.data(folder=str(own), short_side=48))
    other = DataSettings(root=str(demo_root), img_size=32, prepared=PreparedSettings(folder=str(own)))
    with pytest.raises(DataError, match="another dataset"):
        photo_set.prepare(data=other)
    assert len(shard_paths(own)) == -(-photo_set.N_PHOTOS // photo_set.ROWS_PER_SHARD)
