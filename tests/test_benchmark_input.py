"""The input benchmark runs on a few small photos, and counts and compares what was really read."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

CHECKOUT = Path(__file__).resolve().parents[1]
SIZE = 32


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.syspath_prepend(str(CHECKOUT))


@pytest.fixture
def photos(tmp_path, _in_the_checkout):
    from benchmarks.photos import make_photos

    return make_photos(tmp_path / "photos", 5, size=(160, 120))


def run(tmp_path, capsys, workers):
    from benchmarks.input import main

    file = tmp_path / "input.json"
    small = ["--images", "5", "--photo", "160", "120", "--size", str(SIZE), "--repeat", "2"]
    main([*small, "--workers", workers, "--json", str(file)])
    return json.loads(file.read_text()), capsys.readouterr().out


def names_by_task(lines):
    tasks = {}
    for line in lines:
        tasks.setdefault(line["task"], []).append(line["name"])
    return tasks


COLD = ["roadwork", "Pillow, full decode", "Hugging Face image processor"]
EPOCH = [
    "roadwork, from the prepared copy",
    "roadwork, from the photos",
    "Pillow, full decode, DataLoader",
    "Hugging Face datasets with_transform",
]


def test_missing_opencv_omits_its_rows_with_a_note(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    content, text = run(tmp_path, capsys, "0")
    assert names_by_task(content["lines"]) == {
        "cold decode, one core, evaluation": COLD,
        "cold decode, one core, training": COLD,
        "an epoch through the loader": EPOCH,
    }
    for line in content["lines"]:
        is_ours = line["name"] in (COLD[0], EPOCH[0])
        assert (line["ours_ratio"] is None) == is_ours
        assert line["note"].startswith("differs by ")
    assert (content["images"], content["repeats"], content["opencv"]) == (5, 2, None)
    for word in ("OpenCV is not installed", "5 photos of 160x120", "cold decode", "training", "an epoch"):
        assert word in text


def test_with_opencv_and_workers(tmp_path, capsys):
    pytest.importorskip("cv2", reason="the bench extra is not installed")
    content, text = run(tmp_path, capsys, "2")
    tasks = names_by_task(content["lines"])
    assert [name for name in tasks["cold decode, one core, training"] if name not in COLD] == [
        "OpenCV, full decode",
        "OpenCV, reduced to 1/4",
    ]
    assert set(tasks["an epoch through the loader"]) - set(EPOCH) == {"OpenCV, full decode, DataLoader"}
    assert "not installed" not in text


def test_contenders_count_what_they_read(photos):
    from benchmarks.input import decoding, passing

    read = []
    contender = decoding("x", lambda data: read.append(data) or np.zeros(1), [b"1", b"2", b"3"])
    assert contender.run() == len(read) == 3
    assert passing("x", lambda: iter([torch.zeros(4, 3), torch.zeros(1, 3)]), 10).run() == 50


def test_decoder_with_other_output_is_refused(photos):
    from benchmarks.input_cases import PILLOW, check_decoders, decoders

    encoded = [path.read_bytes() for path in photos]
    named = decoders(SIZE, is_training=False)
    differences = check_decoders(named, encoded, SIZE)
    assert differences[PILLOW] == 0
    assert 0 < differences["roadwork"] < 1
    with pytest.raises(ValueError, match="not the same pictures"):
        check_decoders({"flipped": lambda data: named[PILLOW](data)[::-1]}, encoded, SIZE)
    with pytest.raises(ValueError, match="larger gives uint8"):
        check_decoders({"larger": decoders(SIZE + 1, is_training=False)[PILLOW]}, encoded, SIZE)


def test_epoch_with_missing_or_other_images_is_refused(photos):
    from benchmarks.input_epochs import PillowPhotos, check_epochs, plain_epoch

    whole = plain_epoch(PillowPhotos(photos, SIZE), workers=0)
    assert 0 < check_epochs({"whole": whole}, photos, SIZE)["whole"] < 6
    with pytest.raises(ValueError, match=r"short gives .*\(4, 3, 32, 32\), not float32 \(5, 3, 32, 32\)"):
        check_epochs({"short": plain_epoch(PillowPhotos(photos[:4], SIZE), workers=0)}, photos, SIZE)
    with pytest.raises(ValueError, match="not the same pictures"):
        check_epochs({"turned": plain_epoch(PillowPhotos(photos[::-1], SIZE), workers=0)}, photos, SIZE)


def test_our_epochs_read_the_copy_and_the_photos(tmp_path):
    from benchmarks import input_epochs
    from roadwork.data.datamodule import NATIXDataModule

    photos = input_epochs.make_dataset(tmp_path, 3, (160, 120))
    input_epochs.prepare_copy(tmp_path, SIZE)
    copy, cold = (torch.cat(list(input_epochs.our_epoch(tmp_path, SIZE, 0, use=use)())) for use in ("require", "never"))
    assert copy.shape == cold.shape == (3, 3, SIZE, SIZE)
    assert not torch.equal(copy, cold)
    datamodule = NATIXDataModule(input_epochs.our_config(tmp_path, SIZE, "data.prepared.use=require"))
    datamodule.setup("fit")
    store = datamodule.datasets["train"].store
    assert store.loaded is None  # nothing is held in RAM
    assert store.copy.has.all()
    assert len(photos) == 3


def test_photos_are_reproducible_with_edges_and_texture(tmp_path):
    from benchmarks.photos import make_photos

    first, again, other = (
        make_photos(tmp_path / n, 2, seed=s, size=(400, 300)) for n, s in (("a", 0), ("b", 0), ("c", 1))
    )
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert len({p.read_bytes() for p in (*first, *other)}) == 4
    with Image.open(first[0]) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (400, 300), "RGB")
        steps = np.abs(np.diff(np.asarray(image.convert("L"), dtype=int), axis=1))
    assert (steps > 40).any()  # edges
    assert 2 < steps.mean() < 20  # neither flat nor noise alone
    assert 0.15 < first[0].stat().st_size / (400 * 300) < 0.6  # bytes a pixel, as a photo has
