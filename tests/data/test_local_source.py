"""The local mode: all label formats give the same table, and unusable ones raise errors."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

from roadwork.core.errors import DataError
from roadwork.data.dataset import ImageStore
from roadwork.data.formats import SUFFIXES
from roadwork.data.local import read_labels_file, read_local

NAMES = {"None": 0, "Roadwork": 1}
FIELDS = ("filename", "label", "lat", "lng", "sequence_id", "captured_at", "city", "lanes")
VALUES = [
    ("a.jpg", "None", 52.5, 13.4, "007", "2024-05-01T10:00:00Z", "Berlin", 2),
    ("b.jpg", "Roadwork", None, None, "007", None, "Köln", 3),
    ("c.jpg", "None", -1.0, 2.0, None, "2024-05-02T10:00:00Z", "None", 4),
]
ROWS = [dict(zip(FIELDS, values, strict=True)) for values in VALUES]


def write_csv(path, *, bom=False, separator=","):
    pd.DataFrame(ROWS).to_csv(path, index=False, sep=separator, encoding="utf-8-sig" if bom else "utf-8")


WRITERS = {
    "csv": lambda root: write_csv(root / "labels.csv"),
    "csv with a byte order mark": lambda root: write_csv(root / "labels.csv", bom=True),
    "csv with semicolons": lambda root: write_csv(root / "labels.csv", separator=";"),
    "json": lambda root: (root / "labels.json").write_text(json.dumps(ROWS), encoding="utf-8-sig"),
    "jsonl": lambda root: (root / "labels.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n"),
    "parquet": lambda root: pd.DataFrame(ROWS).to_parquet(root / "labels.parquet"),
}


def picture(path, value=100, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 24), (value, value, value)).save(path, **options)


def label_file(root, *rows):
    (root / "labels.json").write_text(json.dumps(rows))
    return root


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_all_formats_give_the_same_table(tmp_path, write):
    write(tmp_path)
    table, _ = read_local(tmp_path, {}, NAMES)
    assert table.ids.tolist() == table.filenames.tolist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert table.labels.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(table.gps, [[52.5, 13.4], [np.nan, np.nan], [-1.0, 2.0]])
    assert table.sequence_ids.tolist() == ["007", "007", ""]
    assert list(table.slices.columns) == ["captured_at", "city", "lanes"]
    assert table.slices["city"].tolist() == ["Berlin", "Köln", "None"]
    assert table.slices["lanes"].tolist() == [2, 3, 4]
    assert table.slices["captured_at"].isna().tolist() == [False, True, False]


def test_null_label_is_an_error_not_the_class_named_none(tmp_path):
    root = label_file(tmp_path, {"filename": "a.jpg", "label": None}, {"filename": "b.jpg", "label": "Roadwork"})
    with pytest.raises(DataError, match=r"1 of 2 .*label.*a\.jpg"):
        read_local(root, {}, NAMES)


def test_column_override(tmp_path):
    root = label_file(tmp_path, {"filename": "a.jpg", "label": 0, "works": 1})
    table, _ = read_local(root, {"label": "works"}, NAMES)
    assert table.labels.tolist() == [1]
    assert table.slices["label"].tolist() == [0]


def test_gps_object_is_read(tmp_path):
    root = label_file(tmp_path, {"filename": "a.jpg", "label": 0, "gps": {"lat": 1.5, "lon": 2.5}})
    assert read_local(root, {}, NAMES)[0].gps.tolist() == [[1.5, 2.5]]


def test_class_folders(tmp_path):
    for name in ("None/a.jpg", "Roadwork/deep/b.png", "Roadwork/c.webp"):
        picture(tmp_path / name)
    (tmp_path / "Roadwork" / "._c.webp").write_bytes(b"macOS")
    (tmp_path / "Roadwork" / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    table, images = read_local(tmp_path, {}, NAMES)
    assert dict(zip(table.filenames, table.labels, strict=True)) == {
        "None/a.jpg": 0,
        "Roadwork/c.webp": 1,
        "Roadwork/deep/b.png": 1,
    }
    assert ImageStore(images, 16).find_unreadable(np.arange(3)) == []


def test_class_folders_read_every_photo_suffix(tmp_path):
    for suffix in SUFFIXES:
        (tmp_path / "None").mkdir(exist_ok=True)
        (tmp_path / "None" / f"a{suffix.upper()}").touch()
    assert len(read_local(tmp_path, {}, NAMES)[0]) == len(SUFFIXES)


def test_class_folders_named_by_label_words(tmp_path):
    for name in ("yes/a.jpg", "no/b.jpg"):
        picture(tmp_path / name)
    table, _ = read_local(tmp_path, {}, NAMES)
    assert dict(zip(table.filenames, table.labels, strict=True)) == {"no/b.jpg": 0, "yes/a.jpg": 1}


def test_files_left_out_of_class_folders_are_counted(tmp_path):
    for name in ("None/a.jpg", "Roadwork/b.HEIC", "loose.jpg"):
        picture(tmp_path / name, format="HEIF" if "HEIC" in name else None)
    for name in ("Roadwork/._b.HEIC", "Roadwork/d.mp4", "Roadwork/deep/e.mp4", "None/README", "splits.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    table, _ = read_local(tmp_path, {}, NAMES)
    assert table.filenames.tolist() == ["None/a.jpg", "Roadwork/b.HEIC"]
    left_out = table.notes[0].partition("Left out: ")[2]
    assert left_out.startswith("5 ")
    for part in ("2 .mp4 (Roadwork/d.mp4)", "1 hidden (Roadwork/._b.HEIC)", "1 .jpg (loose.jpg)", "(None/README)"):
        assert part in left_out


def test_photos_without_a_row_are_counted(tmp_path):
    for name in ("images/a.jpg", "images/b.jpg", "images/deep/c.heif"):
        picture(tmp_path / name, format="JPEG")
    (tmp_path / "images" / "notes.txt").touch()
    label_file(tmp_path, {"filename": "a.jpg", "label": 0})
    assert "Left out: 2 " in read_local(tmp_path, {}, NAMES)[0].notes[0]
    linked = tmp_path / "link"
    linked.symlink_to(tmp_path)
    label_file(tmp_path, *({"filename": str(linked / "images" / name), "label": 0} for name in ("a.jpg", "b.jpg")))
    assert "Left out: 1 photos have no row in labels.json: 1 .heif" in read_local(tmp_path, {}, NAMES)[0].notes[0]


def test_unknown_class_folders_and_no_images(tmp_path):
    with pytest.raises(DataError, match=r"class folder.*labels\.csv|labels\.csv.*class folder"):
        read_local(tmp_path, {}, NAMES)
    picture(tmp_path / "works" / "a.jpg")
    with pytest.raises(DataError, match=r"\bworks\b.*None and Roadwork.*data\.class_names"):
        read_local(tmp_path, {}, NAMES)
    assert read_local(tmp_path, {}, {"clear": 0, "works": 1})[0].labels.tolist() == [1]


def test_exif_gps_without_gps_columns(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (52.0, 30.0, 0.0), 3: "W", 4: (13.0, 24.0, 0.0)})
    picture(tmp_path / "a.jpg", exif=exif)
    picture(tmp_path / "b.jpg")
    rows = {"filename": "a.jpg", "label": 0}, {"filename": "b.jpg", "label": 1}
    table, _ = read_local(label_file(tmp_path, *rows), {}, NAMES)
    np.testing.assert_allclose(table.gps, [[52.5, -13.4], [np.nan, np.nan]])
    assert table.notes[-1] == "No GPS columns: 1 of 2 photos have GPS in their EXIF."
    with_columns = label_file(tmp_path, *({**row, "latitude": 1.0, "longitude": 2.0} for row in rows))
    assert read_local(with_columns, {}, NAMES)[0].gps.tolist() == [[1.0, 2.0], [1.0, 2.0]]


def test_exif_gps_of_rows_with_blank_columns(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "S", 2: (33.0, 30.0, 0.0), 3: "E", 4: (13.0, 24.0, 0.0)})
    picture(tmp_path / "a.jpg", exif=exif)
    picture(tmp_path / "b.jpg", exif=exif)
    picture(tmp_path / "c.jpg")
    rows = [{"filename": f"{name}.jpg", "label": 0, "lat": None, "lon": None} for name in "abc"]
    rows[1] |= {"lat": 1.0, "lon": 2.0}
    table, _ = read_local(label_file(tmp_path, *rows), {}, NAMES)
    np.testing.assert_allclose(table.gps, [[-33.5, 13.4], [1, 2], [np.nan, np.nan]])
    assert "1 of 2 rows with blank GPS columns" in table.notes[-1]


def test_exchanged_coordinates_in_range_are_warned_of(tmp_path, caplog):
    rows = [{"filename": f"{n}.jpg", "label": 0, "lat": 52.5 + n / 100, "lon": 13.4} for n in range(9)]
    read_local(label_file(tmp_path, *rows), {}, NAMES)
    assert not caplog.records
    rows[4] |= {"lat": 13.4, "lon": 52.5}
    read_local(label_file(tmp_path, *rows), {}, NAMES)
    assert [record.getMessage() for record in caplog.records if "1 of 9 rows" in record.getMessage()]
    assert "4.jpg" in caplog.text


def test_files_below_images_below_root_absolute_and_linked(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    names = ["here.jpg", "nested.jpg", "sub/deep.jpg", "linked/l.jpg", str(elsewhere / "absolute.jpg")]
    for path in ("root/here.jpg", "root/images/nested.jpg", "root/images/sub/deep.jpg"):
        picture(tmp_path / path)
    picture(elsewhere / "absolute.jpg")
    picture(elsewhere / "l.jpg")
    (root / "linked").symlink_to(elsewhere)
    root = label_file(root, *({"filename": name, "label": 0} for name in names))
    _, images = read_local(root, {}, NAMES)
    assert ImageStore(images, 16).find_unreadable(np.arange(5)) == []


@pytest.mark.parametrize("name", ["../out.jpg", "sub/../../out.jpg"])
def test_file_name_outside_the_root_is_rejected(tmp_path, name):
    with pytest.raises(DataError, match=r"leads out of"):
        read_local(label_file(tmp_path, {"filename": name, "label": 0}), {}, NAMES)


def test_missing_file_is_named_by_the_image_check(tmp_path):
    _, images = read_local(label_file(tmp_path, {"filename": "gone.jpg", "label": 0}), {}, NAMES)
    [found] = ImageStore(images, 16).find_unreadable(np.arange(1))
    assert "gone.jpg: No such file" in found.reason


def test_row_without_file_name(tmp_path):
    rows = {"filename": "a.jpg", "label": 0}, {"filename": None, "label": 1}
    with pytest.raises(DataError, match=r"[Rr]ow 1 .*file name"):
        read_local(label_file(tmp_path, *rows), {}, NAMES)


def test_two_labels_files(tmp_path):
    write_csv(tmp_path / "labels.csv")
    with pytest.raises(DataError, match=r"labels\.csv and labels\.json"):
        read_local(label_file(tmp_path, *ROWS), {}, NAMES)


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"data\.root=DIR.*roadwork demo-data"):
        read_local(tmp_path / "typo", {}, NAMES)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("labels.json", '{"a.jpg": 1}', "list of objects"),
        ("labels.json", "[1, 2]", "list of objects"),
        ("labels.json", "[{", r"labels\.json\b.*json"),
        ("labels.jsonl", '{"filename": "a"}\n{', r"labels\.jsonl\b.*jsonl"),
        ("labels.csv", "", r"labels\.csv\b.*csv"),
        ("labels.csv", 'filename,label\n"a,1\n', r"labels\.csv\b.*csv"),
        ("labels.csv", b"filename,label\n\xff\xfe,1\n", r"labels\.csv\b.*csv"),
        ("labels.parquet", "no parquet", r"labels\.parquet\b.*parquet"),
        ("labels.csv", "filename,label\n", "no rows"),
        ("labels.csv", "picture,label\na,1\n", "filename.*picture, label"),
    ],
)
def test_unusable_labels_files(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=says):
        read_local(tmp_path, {}, NAMES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.csv", "filename,label\na.jpg,1,x\nb.jpg,0,y\n", r"\b2 columns"),
        ("labels.jsonl", '{"filename": "a.jpg", "label": 0}\n{"file', "line 2 .*JSON"),
    ],
)
def test_damaged_rows_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_labels_file(tmp_path / name)


def test_photo_with_two_rows_is_rejected(tmp_path):
    (tmp_path / "labels.csv").write_text("filename,label\na.jpg,0\nb.jpg,1\na.jpg,1\n")
    with pytest.raises(DataError, match=r"\b1 photos.*a\.jpg"):
        read_local(tmp_path, {}, {"None": 0, "Roadwork": 1})


def test_column_named_twice_is_rejected(tmp_path):
    (tmp_path / "labels.csv").write_text("filename,label,label\na.jpg,0,1\n")
    with pytest.raises(DataError, match="'label'"):
        read_local(tmp_path, {}, {"None": 0, "Roadwork": 1})
