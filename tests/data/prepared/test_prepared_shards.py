"""A shard returns what was written; damage is an error and never another image."""

import numpy as np
import pyarrow as pa
import pytest

from roadwork.data.prepared.plan import encode_jpeg
from roadwork.data.prepared.shards import (
    DamagedError,
    Record,
    find_damage,
    key_checksum,
    open_shard,
    read_all,
    read_jpeg,
    write_shard,
)

RECORDS = [
    Record(f"id{n}", f"{n}:é", encode_jpeg(np.random.default_rng(n).integers(0, 255, (8 + n, 9, 3), dtype=np.uint8)))
    for n in range(5)
]


@pytest.fixture
def path(tmp_path):
    return write_shard(tmp_path, RECORDS)


def test_round_trip(path):
    shard = open_shard(path)
    assert (shard.ids, shard.identities) == ([r.id for r in RECORDS], [r.identity for r in RECORDS])
    assert list(read_all(shard)) == [record.jpeg for record in RECORDS]
    assert find_damage(path, 12) is None
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_any_arrow_reader_opens_it(path):
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    assert table.to_pylist()[3]["jpeg"] == RECORDS[3].jpeg


def test_name_follows_from_the_content(path, tmp_path):
    content = path.read_bytes()
    assert write_shard(tmp_path, RECORDS) == path
    assert path.read_bytes() == content
    assert write_shard(tmp_path, RECORDS[:4]) != path
    assert write_shard(tmp_path, [*RECORDS[:4], RECORDS[4]._replace(jpeg=RECORDS[0].jpeg)]) != path


def test_bytes_of_another_row_are_rejected(path):
    shard = open_shard(path)
    place = int(shard.offsets[1]), int(shard.lengths[1])
    own = key_checksum("id1", "1:é")
    assert read_jpeg(path, *place, own, int(shard.checksums[1])) == RECORDS[1].jpeg
    for other in (key_checksum("id2", "1:é"), key_checksum("id1", "2:é"), key_checksum("id", "11:é")):
        with pytest.raises(DamagedError, match="checksum"):
            read_jpeg(path, *place, other, int(shard.checksums[1]))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_shard_is_rejected(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DamagedError, match=path.name):
        open_shard(path)
    assert path.name in find_damage(path, 12)


def test_other_arrow_files_are_rejected(tmp_path):
    table = pa.table({"id": ["a"]})
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DamagedError, match=r"\.arrow.*columns"):
        open_shard(tmp_path / "x.arrow")


def test_flipped_bits_never_give_another_picture(path):
    """Any image may be reported as damaged; all others must be as written."""
    whole = path.read_bytes()
    expected = {(record.id, record.identity): record.jpeg for record in RECORDS}
    rng = np.random.default_rng(0)
    n_found = 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            shard = open_shard(path)
            for row_id, identity, jpeg in zip(shard.ids, shard.identities, read_all(shard), strict=True):
                assert expected[row_id, identity] == jpeg
        except DamagedError:
            n_found += 1
    assert n_found > 200  # most bytes are pictures


def test_larger_pictures_than_the_copy_should_have(path):
    assert "12x" not in (find_damage(path, 9) or "")
    assert "9x9 pixels" in find_damage(path, 8)
