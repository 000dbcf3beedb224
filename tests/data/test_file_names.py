"""File names written on another system are matched with the photos in the folder where that is unique."""

import json
import unicodedata

import pytest

from roadwork.data.local import read_local

NAMES = {"None": 0, "Roadwork": 1}


def read(root, names, files):
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "labels.json").write_text(json.dumps([{"filename": name, "label": 0} for name in names]))
    table, images = read_local(root, {}, NAMES)
    return [path.relative_to(root).as_posix() if path.exists() else None for path in images.paths], table


E_ACUTE = "\u00e9.jpg"


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("sub\\a.jpg", "sub/a.jpg"),
        (".\\sub\\a.jpg", "images/sub/a.jpg"),
        ("a.JPG", "a.jpg"),
        ("a.jpg", "images/a.JPG"),
        ("Sub/A.jpg", "sub/a.jpg"),
        (E_ACUTE, unicodedata.normalize("NFD", E_ACUTE)),
        (unicodedata.normalize("NFD", E_ACUTE), E_ACUTE),
        ("a", "a.jpg"),
        ("IMG.2024.05", "images/IMG.2024.05.heic"),
        ("/home/eve/data/images/sub/a.jpg", "images/sub/a.jpg"),
        ("C:\\Users\\Eve\\photos\\A.JPG", "images/a.jpg"),
        ("a.jpg", "images/deep/a.jpg"),
    ],
)
def test_names_of_another_system(tmp_path, written, file):
    paths, table = read(tmp_path, [written], [file])
    assert paths == [file]
    assert table.filenames.tolist() == [written]
    assert table.notes[-1].startswith("1 file names differ") or "1 file names differ" in " ".join(table.notes)


@pytest.mark.parametrize(
    ("written", "files"),
    [
        ("a", ["a.jpg", "a.png"]),
        ("a.jpg", ["one/a.jpg", "two/a.jpg"]),
        ("/other/a.jpg", ["one/A.jpg", "one/a.JPG", "b.jpg"]),
    ],
)
def test_candidates_of_an_unclear_name_are_named(tmp_path, caplog, written, files):
    if "/" in written:  # both end like the name
        files = [name.removeprefix("one/") for name in files]
    paths, _ = read(tmp_path, [written], files)
    assert paths == [None]
    assert written in caplog.text
    assert all(name in caplog.text for name in files[:2])


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["train/a.jpg"], ["val/a.jpg"]),
        (["a.jpg"], ["a.png"]),
        (["A.jpg", "a.jpg"], ["a.jpg"]),
        (["gone.jpg", "b.jpg"], ["b.jpg", "c.jpg"]),
    ],
)
def test_other_photos_are_not_taken(tmp_path, names, files):
    assert [path for path in read(tmp_path, names, files)[0] if path] == [name for name in names if name in files]


def test_two_names_never_share_a_photo(tmp_path, caplog):
    paths, table = read(tmp_path, ["x\\a.jpg", "X/A.JPG"], ["x/a.jpg"])
    assert paths == [None, None]
    assert "2 file names" in caplog.text
    assert "1 .jpg (x/a.jpg)" in table.notes[0]
