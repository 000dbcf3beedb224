"""Which copy serves, and what is said where none does."""

import json

import pytest
from prepared_world import ROWS_PER_SHARD, N

from roadwork.core.errors import DataError
from roadwork.data.prepared.shards import MANIFEST, shard_paths, wanted_folder
from roadwork.data.prepared.write import writing
from roadwork.settings import DataSettings, PreparedSettings


def test_copy_modes_never_and_none(world, caplog):
    assert world.find()[2] is None
    world.prepare()
    assert world.find(world.data(use="never"))[2] is None
    assert not caplog.records


def test_require_needs_a_complete_copy(world):
    required = world.data(use="require")
    with pytest.raises(DataError, match=r"-37-r1\b.*`roadwork prepare`"):
        world.find(required)
    world.prepare()
    assert world.find(required)[2].has.all()
    world.photo(3).touch()
    with pytest.raises(DataError, match=r"\b1 rows.*\.jpg\).*require.*`roadwork"):
        world.find(required)


def test_require_does_not_ask_for_what_cannot_be_read(world):
    world.photo(0).write_bytes(b"no picture")
    world.photo(1).unlink()
    _, summary = world.prepare()
    assert len(summary.unreadable) == 2
    copy = world.find(world.data(use="require"))[2]
    assert copy.has.sum() == N - 2
    world.photo(0).write_bytes(b"no picture either")
    with pytest.raises(DataError, match=r"\b1 rows"):
        world.find(world.data(use="require"))


def test_a_larger_copy_of_the_same_dataset_serves(world, caplog):
    for short_side in (120, 60):
        world.prepare(data=world.data(short_side=short_side))
    with caplog.at_level("INFO"):
        assert world.find()[2].short_side == 60
    assert "short side 37: 60" in caplog.text
    with writing(world.data()):
        pass  # a preparation that stopped before its first shard
    assert world.find()[2].short_side == 60
    world.prepare()
    assert world.find()[2].short_side == 37


def test_a_copy_that_is_too_small_is_named(world, caplog):
    world.prepare()
    assert world.find(world.data(img_size=64))[2] is None
    assert "37 pixels is below data.img_size, 64" in caplog.text


@pytest.mark.parametrize(("field", "value"), [("reader", 0), ("format", 0), ("quality", 10)])
def test_a_copy_of_another_version_is_named_and_made_anew(world, caplog, field, value):
    world.prepare()
    manifest = wanted_folder(world.data()) / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {field: value}))
    assert world.find()[2] is None
    assert "reader version" in caplog.text
    assert world.prepare()[1].n_written == N
    assert world.find()[2].has.all()


def test_copy_in_a_user_folder(world, tmp_path, caplog):
    data = world.data(folder=str(tmp_path / "own"))
    assert world.find(data)[2] is None
    assert f"data.prepared.folder is {tmp_path / 'own'}" in caplog.text
    world.prepare(data=data)
    assert world.find(data)[2].folder == tmp_path / "own"
    assert world.find(world.data())[2] is None  # the cache has none
    assert world.find(world.data(folder=str(tmp_path / "own"), short_side=40))[2].short_side == 37


def test_a_folder_that_holds_something_else_is_left_alone(world, tmp_path, demo_root):
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.arrow").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis\.arrow.*manifest"):
        world.prepare(data=world.data(folder=str(own)))
    assert (own / "thesis.arrow").read_text() == "years of work"
    (own / "thesis.arrow").unlink()
    world.prepare(data=world.data(folder=str(own)))
    with pytest.raises(DataError, match=r"short side.*\b37\b.*\b48\b"):
        world.prepare(data=world.data(folder=str(own), short_side=48))
    other = DataSettings(root=str(demo_root), img_size=32, prepared=PreparedSettings(folder=str(own)))
    with pytest.raises(DataError, match="another dataset"):
        world.prepare(data=other)
    assert len(shard_paths(own)) == -(-N // ROWS_PER_SHARD)
