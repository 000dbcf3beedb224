"""`roadwork predict` on the command line, with PyTorch and ONNX models."""

import csv
import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from fixtures.detectors import FACTS, SIZE, make_model_folder
from fixtures.photos import BERLIN, RIO, jpeg, make_photos, write_parquet, write_unreadable
from PIL import ExifTags, Image

from roadwork import Detector
from roadwork.cli import main
from roadwork.data.utils.exif import read_camera_metadata
from roadwork.detector import predict, sites
from roadwork.detector.format import ExportFacts


def run(capsys, *arguments, code=0):
    """The command's stdout and stderr."""
    with pytest.raises(SystemExit) as exit_:
        main(["predict", *map(str, arguments)])
    captured = capsys.readouterr()
    assert (exit_.value.code or 0) == code, captured.out + captured.err
    return captured.out, captured.err


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    make_photos(folder, 6)
    (folder / "berlin, 日本.jpg").write_bytes(jpeg(50, BERLIN, "2024:09:08 10:22:31", "+02:00"))
    (folder / "rio.jpg").write_bytes(jpeg(51, RIO))
    return folder


@pytest.fixture(scope="session")
def onnx_folder(tmp_path_factory, model_folder):
    from transformers import AutoModelForImageClassification

    from roadwork.detector.networks import INPUT_NAME, ONNX_FILE, OUTPUT_NAME, WEIGHTS_FILE

    folder = tmp_path_factory.mktemp("onnx") / "model"
    shutil.copytree(model_folder, folder)
    network = AutoModelForImageClassification.from_pretrained(folder).eval()

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, pixel_values):
            return self.network(pixel_values).logits

    torch.onnx.export(
        Logits().eval(), (torch.zeros(2, 3, SIZE, SIZE),), folder / ONNX_FILE, dynamo=True, verbose=False,
        input_names=[INPUT_NAME], output_names=[OUTPUT_NAME],
        dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch")}},
    )  # fmt: skip
    (folder / WEIGHTS_FILE).unlink()
    return folder


@pytest.mark.parametrize("form", ["hf", "onnx"])
def test_csv_has_the_detectors_predictions(capsys, tmp_path, photos, request, form):
    model = request.getfixturevalue("model_folder" if form == "hf" else "onnx_folder")
    out, _ = run(capsys, model, photos, "--out", tmp_path / "o.csv", "--batch-size", 3, "--workers", 2)
    rows = rows_of(tmp_path / "o.csv")
    assert [row["filename"] for row in rows] == sorted(map(str, photos.iterdir()))
    detector = Detector.load(model)
    answers = [detector(row["filename"]) for row in rows]
    assert len({round(answer.probability, 4) for answer in answers}) > 5
    for row, answer in zip(rows, answers, strict=True):
        assert float(row["probability"]) == pytest.approx(answer.probability, abs=1e-5)
        assert (row["label"], row["abstain"]) == (answer.label, str(answer.abstain).lower())
    n_roadwork = sum(answer.label == "Roadwork" for answer in answers)
    assert f"Roadwork {n_roadwork}, None {8 - n_roadwork}." in out
    assert "8 photos in" in out
    assert "6 photos have no GPS" in out
    assert "photos/s" in out
    assert "threshold 0.45, for a prior of 0.5" in out
    assert f"Written: {tmp_path / 'o.csv'}" in out


def test_geojson_positions_come_from_exif(capsys, tmp_path, photos, model_folder):
    run(capsys, model_folder, photos, "--out", tmp_path / "o.geojson")
    content = json.loads((tmp_path / "o.geojson").read_text(encoding="utf-8"))
    features = {Path(f["properties"]["filename"]).name: f for f in content["features"]}
    assert len(features) == 8
    placed = {name: f["geometry"]["coordinates"] for name, f in features.items() if f["geometry"]}
    assert placed == {"berlin, 日本.jpg": [13.404954, 52.520008], "rio.jpg": [-43.172897, -22.906847]}
    berlin = features["berlin, 日本.jpg"]["properties"]
    assert berlin["captured_at"] == "2024-09-08T10:22:31+02:00"
    assert berlin["label"] in {"Roadwork", "None"}
    assert content["roadwork"]["threshold"] == FACTS.threshold


def test_positions_are_rounded_everywhere(capsys, tmp_path, photos, model_folder):
    for suffix in ("csv", "geojson"):
        run(capsys, model_folder, photos, "--out", tmp_path / f"o.{suffix}", "--coarsen-gps", 1)
        text = (tmp_path / f"o.{suffix}").read_text(encoding="utf-8")
        assert "52.5" in text
        assert "52.52" not in text
        assert "22.90" not in text


def test_unreadable_files_are_listed_and_not_fatal(capsys, tmp_path, photos, model_folder):
    bad = write_unreadable(photos / "bad")
    make_photos(photos / "after", 2)
    for number in range(20):
        (photos / "bad" / f"z{number:02d}.jpg").write_bytes(b"")
    out, _ = run(capsys, model_folder, photos, "--out", tmp_path / "o.csv")
    rows = rows_of(tmp_path / "o.csv")
    failed = {Path(row["filename"]).name: row for row in rows if row["error"]}
    assert len(failed) == 20 + len(bad)
    assert {row["label"] + row["probability"] + row["abstain"] for row in failed.values()} == {""}
    assert sum(row["label"] != "" for row in rows) == 8 + 2
    assert f"{len(failed)} photos cannot be read" in out
    assert out.count(f"  {photos}/bad/") == 20
    assert f"and {len(failed) - 20} more" in out


def test_no_readable_photo_fails(capsys, tmp_path, model_folder):
    bad = write_unreadable(tmp_path / "bad")
    _, err = run(capsys, model_folder, tmp_path / "bad", "--out", tmp_path / "o.csv", code=1)
    assert "none of the photos can be read" in err
    assert len(rows_of(tmp_path / "o.csv")) == len(bad)


def test_parquet_in_parquet_out_with_columns(capsys, tmp_path, model_folder):
    images = [jpeg(0), jpeg(1, RIO), None]
    path = write_parquet(tmp_path / "in.parquet", images, lat=[BERLIN[0], None, None], lng=[BERLIN[1], None, None])
    run(capsys, model_folder, path, "--out", tmp_path / "o.parquet")
    rows = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert [row["filename"] for row in rows] == [f"{path}#{row}" for row in range(3)]
    assert (rows[0]["latitude"], rows[0]["longitude"]) == BERLIN
    assert (rows[1]["latitude"], rows[1]["longitude"]) == pytest.approx(RIO)  # from its own EXIF
    assert rows[0]["probability"] == pytest.approx(Detector.load(model_folder)(images[0]).probability, abs=1e-5)
    assert rows[2]["error"] == "the image is null"


def test_paths_from_standard_input(capsys, tmp_path, photos, model_folder, monkeypatch):
    listed = f"{photos / 'rio.jpg'}\n{tmp_path / 'gone.jpg'}\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed)))
    run(capsys, model_folder, "-", "--out", tmp_path / "o.csv")
    assert [(row["filename"], row["error"]) for row in rows_of(tmp_path / "o.csv")] == [
        (str(photos / "rio.jpg"), ""),
        (str(tmp_path / "gone.jpg"), "No such file or directory"),
    ]


@pytest.mark.parametrize("views", ["flip", "tiles"])
def test_views_are_combined(capsys, tmp_path, photos, model_folder, views):
    from roadwork.detector.views import combine, read_views

    run(capsys, model_folder, photos, "--out", tmp_path / "o.csv", "--views", views, "--batch-size", 3)
    detector = Detector.load(model_folder)
    for row in rows_of(tmp_path / "o.csv"):
        logits = detector.logits(read_views(Path(row["filename"]).read_bytes(), SIZE, views)).double()
        d = combine((logits[:, 1] - logits[:, 0])[None]).item()
        expected = 1 / (1 + np.exp(-(d + np.log(FACTS.threshold / (1 - FACTS.threshold)))))
        assert float(row["probability"]) == pytest.approx(expected, abs=1e-5)


def test_sites_match_those_of_the_whole_table(capsys, tmp_path):
    """Only photos near a detection are kept in memory; the sites equal those of the whole table."""
    make_photos(tmp_path / "photos", 2, start=100)
    photos = [
        jpeg(number, (52.5 + 0.3 * (number % 2) + 0.00011 * (number // 2), 13.4))  # 12 m apart in two streets
        for number in range(24)
    ]
    for number, photo in enumerate(photos):
        (tmp_path / "photos" / f"{number:02d}.jpg").write_bytes(photo)
    model = make_model_folder(tmp_path / "model", facts=ExportFacts(prior=0.5))
    median = float(np.median([answer.probability for answer in Detector.load(model).predict_many(photos)]))
    make_model_folder(tmp_path / "model", facts=ExportFacts(threshold=median, prior=0.5))
    out, _ = run(capsys, model, tmp_path / "photos", "--out", tmp_path / "o.parquet", "--sites", tmp_path / "s.geojson")
    frame = pd.read_parquet(tmp_path / "o.parquet")
    assert 0 < (frame["label"] == "Roadwork").sum() < 24
    expected = sites.find_sites(frame, prior=0.5)
    found = json.loads((tmp_path / "s.geojson").read_text(encoding="utf-8"))["features"]
    assert len(found) == len(expected) > 0
    got = [(f["properties"]["n_photos"], f["properties"]["n_photos_nearby_without"]) for f in found]
    assert got == list(zip(expected["n_photos"], expected["n_photos_nearby_without"], strict=True))
    assert sum(nearby for _, nearby in got) > 0
    assert f"{len(found)} sites in" in out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_after_the_batch_and_resumes(capsys, tmp_path, photos, model_folder, monkeypatch, number, code):
    original, calls = predict.predict_batch, []

    def predict_batch(*args):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return original(*args)

    monkeypatch.setattr(predict, "predict_batch", predict_batch)
    before = signal.getsignal(number)
    command = (model_folder, photos, "--out", tmp_path / "o.csv", "--batch-size", 2)
    _, err = run(capsys, *command, code=code)
    assert "Stopped after 4 of 8 photos" in err
    assert "o.csv.partial: run the same command again" in err
    assert signal.getsignal(number) == before
    out, _ = run(capsys, *command)
    assert "8 photos (4 predicted before)" in out
    assert len(rows_of(tmp_path / "o.csv")) == 8
    assert not (tmp_path / "o.csv.partial").exists()


def test_damaged_header_gives_no_warning(capsys, tmp_path, model_folder):
    data = bytearray(jpeg(1, RIO, taken="2024:09:08 10:22:31"))
    place = data.index(b"Exif\0\0") + 6
    data[place + 8 : place + 40] = b"\xff" * 32
    (tmp_path / "a.jpg").write_bytes(data)
    run(capsys, model_folder, tmp_path / "a.jpg", "--out", tmp_path / "o.csv")
    assert rows_of(tmp_path / "o.csv")[0]["error"] == ""


def test_run_folder_is_not_a_detector(capsys, tmp_path, photos, tiny_run):
    _, err = run(capsys, tiny_run, photos, "--out", tmp_path / "o.csv", code=1)
    assert f"roadwork export {tiny_run} --format hf --out DIR" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out", "o.txt"], 2, "its suffix must be"),
        (["--out", "o.csv", "--views", "many"], 2, "none, flip, tiles"),
        (["--out", "o.csv", "--workers", "0"], 2, "workers"),
        (["--out", "o.csv", "--device", "abacus"], 2, "abacus"),
        ([], 2, "out"),
    ],
)
def test_wrong_usage_is_rejected(capsys, tmp_path, photos, model_folder, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    out, err = run(capsys, model_folder, photos, *arguments, code=code)
    assert message in out + err
    assert not (tmp_path / "o.csv").exists()
    assert not (tmp_path / "o.csv.partial").exists()


def test_png_is_not_decoded_to_look_for_exif(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "a camera"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:09:08 10:22:31"
    Image.new("RGB", (40, 40)).save(tmp_path / "with.png", exif=exif)
    Image.new("RGB", (40, 40)).save(tmp_path / "without.png")
    loads = []
    original = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda self: loads.append(1) or original(self))
    assert read_camera_metadata((tmp_path / "with.png").read_bytes()).captured_at == "2024-09-08T10:22:31"
    assert read_camera_metadata((tmp_path / "without.png").read_bytes()).captured_at == ""
    assert not loads
