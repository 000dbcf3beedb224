"""Finding photos: order, duplicates, and errors."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.photos import BERLIN, jpeg, make_photos, write_parquet

from roadwork.core.errors import DataError
from roadwork.detector import parquet_photos
from roadwork.detector.discovery import find_photos


def names(found, wanted=None):
    return [photo.name for photo in chosen(found, wanted)]


def chosen(found, wanted=None):
    return list(found.photos(np.ones(len(found), dtype=bool) if wanted is None else np.array(wanted)))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folder_is_read_in_order_with_subfolders(here):
    for name in ("b.JPG", "a.png", "z/c.webp", "m/d.jpeg", "notes.txt", ".hidden.jpg", ".git/x.jpg", "clip.mp4"):
        (here / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "photos" / name).write_bytes(b"")
    os.mkfifo(here / "photos" / "pipe.jpg")  # opening it would block forever
    found = find_photos(["photos"])
    assert names(found) == ["photos/a.png", "photos/b.JPG", "photos/m/d.jpeg", "photos/z/c.webp"]
    assert (found.n_hidden, found.n_other, found.n_duplicates) == (2, 3, 0)
    assert "1 .mp4 (photos/clip.mp4)" in str(found.left_out)
    assert names(find_photos(["photos"], recursive=False)) == ["photos/a.png", "photos/b.JPG"]
    assert [photo.position for photo in chosen(found, [False, True, False, True])] == [1, 3]


def test_duplicate_inputs_count_once(here):
    make_photos(here / "photos", 3)
    (here / "photos" / "link.jpg").symlink_to(here / "photos" / "001.jpg")
    (here / "photos" / "loop").symlink_to(here / "photos")
    found = find_photos(
        ["photos/002.jpg", "photos", str(here / "photos" / "000.jpg"), "photos/*.jpg", "./photos/../photos/001.jpg"]
    )
    assert names(found) == ["photos/002.jpg", "photos/000.jpg", "photos/001.jpg"]
    assert found.n_duplicates == 2 + 1 + 4 + 1
    assert len(set(found.keys())) == len(found) == 3


def test_globs_are_expanded_unless_a_file_has_that_name(here):
    make_photos(here / "one", 2)
    make_photos(here / "two", 1)
    (here / "one" / "labels.csv").write_text("")
    (here / "[one].jpg").write_bytes(jpeg())
    assert names(find_photos(["*/00*"])) == ["one/000.jpg", "one/001.jpg", "two/000.jpg"]
    assert names(find_photos(["[one].jpg"])) == ["[one].jpg"]
    assert names(find_photos(["**/*.jpg"])) == ["[one].jpg", "one/000.jpg", "one/001.jpg", "two/000.jpg"]
    assert find_photos(["one/*"]).n_other == 1


def test_stdin_list_may_contain_missing_files(here):
    make_photos(here / "photos", 2)
    lines = [b"photos/001.jpg\n", b"\n", b"gone.jpg\r\n", b"photos\n", "größe \xff.jpg".encode("latin-1")]
    found = find_photos(["-"], lines)
    assert names(found)[:3] == ["photos/001.jpg", "gone.jpg", "photos/000.jpg"]
    assert len(found) == 4
    with pytest.raises(OSError, match="No such file"):
        chosen(found)[1].load()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["absent"], r"\babsent\b"),
        (["absent.parquet"], r"absent\.parquet"),
        (["*.tiff"], r"\*\.tiff"),
        (["empty"], r"\bempty\b.*\b2 .*\b1 hidden.*Parquet"),
        (["pipe"], r"\bpipe\b"),
        (["broken.parquet"], r"broken\.parquet"),
        (["bare.parquet"], r"bare\.parquet.*a, b"),
        (["-"], r"photo.* -"),
    ],
)
def test_inputs_without_photos_are_rejected(here, inputs, message):
    (here / "empty").mkdir()
    for name in ("x.txt", "y.parquet", ".z"):
        (here / "empty" / name).write_bytes(b"")
    os.mkfifo(here / "pipe")
    (here / "broken.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.table({"a": [1], "b": [2]}), here / "bare.parquet")
    with pytest.raises(DataError, match=message):
        find_photos(inputs)


def test_embedded_photos_come_with_their_columns(here):
    images = [jpeg(number) for number in range(7)]
    path = write_parquet(
        here / "p.parquet",
        [*images, None, {"bytes": None, "path": "beside.jpg"}],
        filename=["é,1.jpg", None, *(f"f{n}.jpg" for n in range(7))],
        id=[f"id{n}" for n in range(9)],
        gps=[f"({BERLIN[0]}, {BERLIN[1]})", *[None] * 8],
        captured_at=["2024-09-08T10:22:31Z", *[None] * 8],
        label=[0] * 9,
    )
    (here / "beside.jpg").write_bytes(b"beside")
    photos = chosen(find_photos([str(path)]))
    assert [photo.name for photo in photos[:3]] == ["é,1.jpg", "id1", "f0.jpg"]
    assert [photo.load() for photo in photos[:7]] == images
    assert photos[0].gps == BERLIN
    assert photos[0].captured_at == "2024-09-08T10:22:31Z"
    assert str(photos[1].gps) == "(nan, nan)"
    with pytest.raises(Exception, match="null"):
        photos[7].load()
    assert photos[8].load() == b"beside"
    wanted = [number in {2, 6} for number in range(9)]
    assert [(photo.position, photo.load()) for photo in chosen(find_photos([str(path)]), wanted)] == [
        (2, images[2]),
        (6, images[6]),
    ]


def test_finished_row_groups_are_not_read(here, monkeypatch):
    path = write_parquet(here / "p.parquet", [jpeg(number) for number in range(9)])
    read = []
    original = parquet_photos.EmbeddedPhotos._group
    monkeypatch.setattr(
        parquet_photos.EmbeddedPhotos,
        "_group",
        lambda self, file, group: read.append(group) or original(self, file, group),
    )
    assert names(find_photos([str(path)]), [row == 4 for row in range(9)]) == [f"{path}#4"]
    assert read == [1]


def test_paths_in_a_table_are_relative_to_it(here):
    (folder := here / "set").mkdir()
    make_photos(folder, 2)
    table = pa.table({"image_path": ["001.jpg", "000.jpg"], "lat": [BERLIN[0], None], "lon": [BERLIN[1], None]})
    pq.write_table(table, folder / "p.parquet")
    photos = chosen(find_photos(["set/000.jpg", "set/p.parquet"]))
    assert [(photo.name, photo.gps[0] == BERLIN[0]) for photo in photos] == [("set/000.jpg", False), ("001.jpg", True)]
    assert photos[1].load() == (folder / "001.jpg").read_bytes()


def test_unusable_positions_name_the_file(here):
    path = write_parquet(here / "p.parquet", [jpeg()], latitude=[95.0], longitude=[3.0])
    with pytest.raises(DataError, match=r"p\.parquet.*1 of 1 rows"):
        find_photos([str(path)])
