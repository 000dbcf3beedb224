"""The Hugging Face mode: images stay with their rows, and the table needs no decoding."""

import io

import datasets
import numpy as np
import pandas as pd
import pytest
from fixtures.photos import jpeg
from PIL import Image

from roadwork.core.errors import DataError
from roadwork.data.huggingface import read_huggingface
from roadwork.data.images import decode_image, quick_check

NAMES = {"None": 0, "Roadwork": 1}
N = 12


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def encoded(row):
    """An image with the brightness of its row number."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (row * 20, row * 20, row * 20)).save(buffer, "PNG")
    return buffer.getvalue()


def columns(n=N):
    """The schema of natix-network-org/roadwork: metadata can be null, GPS is text, video ids are nested."""
    rows = range(n)
    return {
        "image": [{"bytes": encoded(row), "path": f"{row:02d}.png"} for row in rows],
        "label": [row % 2 for row in rows],
        "gps": [f"({row}.5, {row}.25)" if row % 3 else None for row in rows],
        "weather": ["rain" if row % 2 else None for row in rows],
        "video_info": [{"vid_id": f"v{row // 4}", "frame": row} if row % 4 != 3 else None for row in rows],
    }


FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "label": datasets.Value("int64"),
        "gps": datasets.Value("string"),
        "weather": datasets.Value("string"),
        "video_info": {"vid_id": datasets.Value("string"), "frame": datasets.Value("int64")},
    }
)


def dataset(**changes):
    return datasets.Dataset.from_dict({**columns(), **changes}, features=FEATURES)


def test_exif_gps_of_rows_without_text(tmp_path):
    data = columns(4)
    for row in (0, 1):
        data["image"][row]["bytes"] = jpeg(row, (-33.5, 151.25))
    data["gps"] = [None, "(1.5, 1.25)", None, None]
    datasets.Dataset.from_dict(data, features=FEATURES).save_to_disk(tmp_path / "data")
    table, _ = read_huggingface(str(tmp_path / "data"), "train", {}, NAMES)
    np.testing.assert_allclose(table.gps[:2], [[-33.5, 151.25], [1.5, 1.25]])
    assert table.has_gps.tolist() == [True, True, False, False]


def test_other_files_of_a_parquet_folder_are_counted(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        dataset().to_parquet(folder / f"{split}.parquet")
    (folder / "photo.jpg").touch()
    table, _ = read_huggingface(str(folder), "train", {}, NAMES)
    assert "Left out: 2 " in table.notes[0]
    assert "1 .jpg (photo.jpg)" in table.notes[0]
    assert "1 .parquet (test.parquet)" in table.notes[0]


def row_shown_by(images, position):
    return int(decode_image(images.read(position), 8)[4, 4, 0]) // 20


def assert_aligned(table, images):
    shown = [row_shown_by(images, position) for position in range(len(table))]
    assert [f"{row:02d}.png" for row in shown] == table.filenames.tolist()
    assert [row % 2 for row in shown] == table.labels.tolist()
    assert all(quick_check(images, position) is None for position in range(len(table)))
    return shown


def write_parquet(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset().to_parquet(path)


def write_by_pandas(path):
    pd.DataFrame(columns()).to_parquet(path)


@pytest.mark.parametrize("write", [write_parquet, write_by_pandas])
def test_parquet_of_the_hub_schema(tmp_path, write, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(datasets.Image, "decode_example", refuse)
    write(tmp_path / "train.parquet")
    table, images = read_huggingface(str(tmp_path / "train.parquet"), "train", {}, NAMES)
    assert_aligned(table, images)
    assert table.ids.tolist() == table.filenames.tolist()
    expected = [[row + 0.5, row + 0.25] if row % 3 else [np.nan, np.nan] for row in range(N)]
    np.testing.assert_array_equal(table.gps, expected)
    assert table.sequence_ids.tolist() == [f"v{row // 4}" if row % 4 != 3 else "" for row in range(N)]
    assert list(table.slices.columns) == ["weather", "video_info.frame"]
    assert "sequence_id=video_info.vid_id" in table.notes[0]


@pytest.mark.parametrize("change", ["as made", "shuffled", "selected", "shuffled and flattened"])
def test_saved_datasets_keep_pictures_beside_their_rows(tmp_path, change):
    made = {
        "as made": lambda d: d,
        "shuffled": lambda d: d.shuffle(seed=3),
        "selected": lambda d: d.select([7, 2, 2 + 3, 11]),
        "shuffled and flattened": lambda d: d.shuffle(seed=3).flatten_indices(),
    }[change](dataset())
    made.save_to_disk(tmp_path / "saved")
    table, images = read_huggingface(str(tmp_path / "saved"), "train", {}, NAMES)
    shown = assert_aligned(table, images)
    if change == "selected":
        assert shown == [7, 2, 5, 11]
    if change.startswith("shuffled"):
        assert shown != sorted(shown)


def test_indices_mapping_in_memory_is_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load_from_disk", lambda name: dataset().shuffle(seed=3))
    (tmp_path / "state.json").touch()
    table, images = read_huggingface(str(tmp_path), "train", {}, NAMES)
    shown = assert_aligned(table, images)
    assert shown != sorted(shown)


def test_saved_dataset_dict(tmp_path):
    parts = datasets.DatasetDict({"train": dataset().select(range(4)), "test": dataset().select(range(4, N))})
    parts.save_to_disk(tmp_path / "saved")
    table, images = read_huggingface(str(tmp_path / "saved"), "test", {}, NAMES)
    assert assert_aligned(table, images) == list(range(4, N))
    with pytest.raises(DataError, match=r"'dev'.*train, test"):
        read_huggingface(str(tmp_path / "saved"), "dev", {}, NAMES)


def test_parquet_folder_reads_the_files_of_its_split(tmp_path):
    dataset().select(range(4)).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    dataset().select(range(4, N)).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    assert len(read_huggingface(str(tmp_path), "train", {}, NAMES)[0]) == 4
    assert len(read_huggingface(str(tmp_path), "test", {}, NAMES)[0]) == N - 4
    with pytest.raises(DataError, match=r"'dev'.*test-00000"):
        read_huggingface(str(tmp_path), "dev", {}, NAMES)


def test_parquet_names_without_a_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in range(3):
        write_parquet(tmp_path / "photos" / f"part-{part}.parquet")
    assert len(read_huggingface(str(tmp_path / "photos"), "train", {}, NAMES)[0]) == 3 * N
    assert len(read_huggingface("photos/*.parquet", "train", {}, NAMES)[0]) == 3 * N


def test_repeated_image_paths_make_row_numbers_the_ids(tmp_path):
    write_parquet(tmp_path / "a.parquet")
    write_parquet(tmp_path / "b.parquet")
    table, _ = read_huggingface(str(tmp_path), "train", {}, NAMES)
    assert table.ids[N] == f"{N:08d}"


@pytest.mark.parametrize("names", [["None", "Roadwork"], ["Roadwork", "None"]])
def test_class_labels_are_matched_by_name(tmp_path, names):
    features = datasets.Features({**FEATURES, "label": datasets.ClassLabel(names=names)})
    labels = [names.index("Roadwork") if row % 2 else names.index("None") for row in range(N)]
    datasets.Dataset.from_dict({**columns(), "label": labels}, features=features).save_to_disk(tmp_path / "saved")
    table, _ = read_huggingface(str(tmp_path / "saved"), "train", {}, NAMES)
    assert table.labels.tolist() == [row % 2 for row in range(N)]


def test_class_labels_that_are_missing_or_unknown(tmp_path):
    features = datasets.Features({**FEATURES, "label": datasets.ClassLabel(names=["Roadwork", "None"])})
    labels = [-1, None] + [0] * (N - 2)
    datasets.Dataset.from_dict({**columns(), "label": labels}, features=features).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"2 of 12 rows.*00\.png.*01\.png"):
        read_huggingface(str(tmp_path / "saved"), "train", {}, NAMES)
    with pytest.raises(DataError, match=r"\['Roadwork', 'None'\].*data\.class_names"):
        read_huggingface(str(tmp_path / "saved"), "train", {}, {"yes": 1, "no": 0})


def test_null_label_in_plain_numbers(tmp_path):
    dataset(label=[None] + [1] * (N - 1)).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"1 of 12 .*label.*00\.png"):
        read_huggingface(str(tmp_path / "saved"), "train", {}, NAMES)


def test_null_and_empty_images_are_unreadable_by_row(tmp_path, monkeypatch):
    images = columns()["image"]
    images[2], images[5] = None, {"bytes": None, "path": str(tmp_path / "gone.png")}
    images[6] = {"bytes": None, "path": str(tmp_path / "there.png")}
    (tmp_path / "there.png").write_bytes(encoded(6))
    monkeypatch.setattr(datasets, "load_from_disk", lambda name: dataset(image=images))
    (tmp_path / "state.json").touch()
    table, source = read_huggingface(str(tmp_path), "train", {}, NAMES)
    reasons = {row: why for row in range(N) if (why := quick_check(source, row))}
    assert set(reasons) == {2, 5}
    assert reasons[2] == "the image is null"
    assert "gone.png: No such file" in reasons[5]
    assert row_shown_by(source, 6) == 6
    assert table.filenames[2] == ""


def test_column_overrides_and_another_name_of_the_image(tmp_path):
    renamed = dataset().rename_columns({"image": "photo", "weather": "place_id", "label": "works"})
    renamed.save_to_disk(tmp_path / "saved")
    overrides = {"label": "works", "sequence_id": "place_id"}
    table, images = read_huggingface(str(tmp_path / "saved"), "train", overrides, NAMES)
    assert_aligned(table, images)
    assert set(table.sequence_ids) == {"rain", ""}
    with pytest.raises(DataError, match=r"'nowhere'"):
        read_huggingface(str(tmp_path / "saved"), "train", {"label": "nowhere"}, NAMES)


def test_no_or_several_image_columns(tmp_path):
    dataset().remove_columns("image").save_to_disk(tmp_path / "none")
    with pytest.raises(DataError, match=r"\b0 image columns.*label, gps, weather, video_info"):
        read_huggingface(str(tmp_path / "none"), "train", {}, NAMES)


def test_only_metadata_is_loaded(tmp_path, monkeypatch):
    """The metadata frame must not contain the encoded images."""
    dataset().shuffle(seed=0).save_to_disk(tmp_path / "saved")
    seen = []
    to_pandas = datasets.Dataset.to_pandas
    monkeypatch.setattr(datasets.Dataset, "to_pandas", lambda self: seen.extend(self.column_names) or to_pandas(self))
    read_huggingface(str(tmp_path / "saved"), "train", {}, NAMES)
    assert "label" in seen
    assert not {"image", "image.bytes"} & set(seen)


def test_hub_name_without_network_and_local_typos(tmp_path):
    with pytest.raises(DataError, match=r"data\.hub\.name='natix-network-org/roadwork', data\.hub\.split='train'"):
        read_huggingface("natix-network-org/roadwork", "train", {}, NAMES)
    with pytest.raises(DataError, match=r"parquet.*save_to_disk"):
        read_huggingface(str(tmp_path), "train", {}, NAMES)
    (tmp_path / "broken.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="cannot be loaded"):
        read_huggingface(str(tmp_path / "broken.parquet"), "train", {}, NAMES)
