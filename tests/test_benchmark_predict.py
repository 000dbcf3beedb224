"""The contenders of `benchmarks.predict` give the same answers, and its table says what was timed."""

import json

import pytest

from benchmarks import predict, predict_cases
from benchmarks.predict_cases import OURS, check_predictors, largest_difference, make_model, predictors
from roadwork import Detector

TINY = ("--photo", "320", "240", "--images", "4", "--batch", "2", "--workers", "2", "--repeat", "1")


def test_the_table_has_every_way_of_predicting(tmp_path, capsys):
    file = tmp_path / "predict.json"
    predict.main([*TINY, "--model", "resnet", "--json", str(file)])
    written = json.loads(file.read_text())
    assert [line["name"] for line in written["lines"]] == [
        OURS,
        "pipeline, list, 2 workers",
        "pipeline, list",
        "pipeline, generator, 1 worker",
    ]
    assert all((line["ours_ratio"] is None) == (line["name"] == OURS) for line in written["lines"])
    assert all(line["note"].startswith("differs by 0.0") for line in written["lines"])
    assert (written["images"], written["batch"], written["workers"]) == (4, 2, 2)
    assert "images/s" in capsys.readouterr().out


def test_the_vit_is_a_small_one_at_its_size(tmp_path, monkeypatch):
    monkeypatch.setitem(
        predict_cases.NETWORKS,
        "vit-s",
        ("ViT", [*predict_cases.NETWORKS["vit-s"][1], "model.config.num_hidden_layers=1"]),
    )
    detector = Detector.load(make_model(tmp_path / "model", "vit-s"))
    assert detector.preprocessing.size == 224
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["hidden_size"], config["patch_size"], config["num_attention_heads"]) == (384, 16, 6)


def test_other_answers_are_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    predict.make_photos(tmp_path / "photos", 2, size=(64, 48))
    named = predictors(make_model(tmp_path / "model", "resnet"), tmp_path / "photos", 2, 1)
    ours = named[OURS]()
    assert len(ours) == 2
    with pytest.raises(ValueError, match="differs by"):
        check_predictors({OURS: named[OURS], "wrong": lambda: [ours[0], ours[1] + 0.1]})
    with pytest.raises(ValueError, match="argument 2"):
        largest_difference("short", ours[:1], ours)


def test_wrong_usage_is_refused(capsys):
    with pytest.raises(SystemExit):
        predict.main(["--batch", "0"])
    assert "at least 1" in capsys.readouterr().err
