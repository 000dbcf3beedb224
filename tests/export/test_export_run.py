import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.detectors import make_run
from fixtures.untrained_runs import NETWORKS, make_untrained_run
from scipy.special import logit

from roadwork.core.errors import ConfigError, DataError, WiringError
from roadwork.core.files import sha256_of
from roadwork.data.images import read_pixels
from roadwork.detector.detector import Detector
from roadwork.detector.format import ExportFacts
from roadwork.export import export
from roadwork.export.export import export_run
from roadwork.export.replay import draw_scenes, read_replay
from roadwork.metrics.predictions import read_predictions
from roadwork.training.lora.apply import ADAPTERS


def answers_on_the_runs_photos(model: Path, run: Path, photos: Path):
    """Probabilities of the run's photos by the exported detector, and by the run."""
    frame = read_predictions(run / "predictions.parquet").head(40)
    detector = Detector.load(model, device="cpu")
    files = [photos / name if (photos / name).is_file() else photos / "images" / name for name in frame["filename"]]
    predictions = detector.predict_many(files)
    return np.array([prediction.probability for prediction in predictions]), frame


def calibrate_by_hand(run: Path, **changes) -> dict:
    path = run / "calibration.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content))
    return content


@pytest.mark.parametrize("form", ["hf", "onnx"])
def test_detector_reproduces_the_runs_predictions(form, tiny_run, demo_root, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    threshold = float(read_predictions(run / "predictions.parquet")["probability"].median())
    band = {"low": threshold - 0.001, "high": threshold + 0.001}
    calibrate_by_hand(run, temperature=0.7, threshold=threshold, prior=0.2, abstain=band)
    before = {path: sha256_of(path) for path in run.rglob("*") if path.is_file()}

    summary = export_run(run, tmp_path / "out", format=form)

    probabilities, frame = answers_on_the_runs_photos(tmp_path / "out", run, demo_root)
    difference = (frame["logit_roadwork"] - frame["logit_none"]).to_numpy()
    expected = 1 / (1 + np.exp(-difference / 0.7))
    assert probabilities == pytest.approx(expected, abs=1e-6)
    assert len(set((expected >= threshold).tolist())) == 2
    facts = ExportFacts(0.7, threshold, 0.2, band["low"], band["high"])
    assert summary.facts == ExportFacts.read(tmp_path / "out")
    assert replace(summary.facts, scores=None) == facts
    calib = read_predictions(run / "predictions.parquet").query("split == 'val_calib'")
    called = (calib["logit_roadwork"] - calib["logit_none"]) / 0.7 >= logit(threshold)
    scores = summary.facts.scores
    for counts, label in ((scores.none, 0), (scores.roadwork, 1)):
        own = calib["label"] == label
        assert (sum(counts), sum(counts[scores.above :])) == (own.sum(), called[own].sum())
    assert {path: sha256_of(path) for path in run.rglob("*") if path.is_file()} == before


def test_frozen_run_is_exported(demo_root, tmp_path):
    run = make_run(tmp_path / "runs", demo_root, "training.freeze_backbone=true", "data.augmentation.train.mode=none")
    export_run(run, tmp_path / "out", format="hf")
    probabilities, frame = answers_on_the_runs_photos(tmp_path / "out", run, demo_root)
    assert probabilities == pytest.approx(frame["probability_calibrated"].to_numpy(), abs=1e-6)


@pytest.mark.parametrize(
    ("model_type", "form"),
    [
        *((model_type, "hf") for model_type in NETWORKS),
        *(
            pytest.param(model_type, "onnx", marks=pytest.mark.slow if model_type in ("siglip", "dinov2") else ())
            for model_type in NETWORKS
        ),
    ],
)
def test_every_network_is_exported(model_type, form, tmp_path):
    run = make_untrained_run(tmp_path / "run", model_type)
    summary = export_run(run, tmp_path / "out", format=form)
    assert summary.facts is None
    assert summary.model_type == model_type
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] is None
    assert config["id2label"] == {"0": "None", "1": "Roadwork"}
    assert config["label2id"] == {"None": 0, "Roadwork": 1}
    assert config["dtype"] == config["torch_dtype"] == "float32"
    assert config["roadwork"]["prior"] is None
    if model_type in ("vit", "dinov2"):
        assert config["image_size"] == 32
    elif model_type == "siglip":
        assert config["vision_config"]["image_size"] == 32
    detector = Detector.load(tmp_path / "out", device="cpu")
    pixels = torch.stack([read_pixels(scene, 32) for scene in draw_scenes()[:7]])
    logits = detector.logits(pixels)
    assert torch.equal(logits[:, 0], -logits[:, 1])
    one_by_one = torch.cat([detector.logits(pixels[i : i + 1]) for i in range(7)])
    assert torch.allclose(logits, one_by_one, atol=1e-5)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_is_merged(adapter, tmp_path):
    run = make_untrained_run(tmp_path / "run", "vit", adapter)
    summary = export_run(run, tmp_path / "out", format="hf")
    assert summary.parities[0].what == f"{adapter} merged"
    assert all(parity.difference < parity.limit for parity in summary.parities)
    config = (tmp_path / "out" / "config.json").read_text()
    assert adapter not in config


def test_unmerged_adapter_is_detected(tmp_path, monkeypatch):
    run = make_untrained_run(tmp_path / "run", "vit", "lora")
    monkeypatch.setattr(export, "merge_adapter", lambda model: model.unload())
    with pytest.raises(WiringError, match=r"lora.*logits"):
        export_run(run, tmp_path / "out", format="hf")
    assert not (tmp_path / "out").exists()


def test_wrong_folding_is_detected(tmp_path, monkeypatch):
    run = make_untrained_run(tmp_path / "run")
    right = export.fold_calibration
    monkeypatch.setattr(export, "fold_calibration", lambda network, t, threshold: right(network, t, threshold + 1e-3))
    with pytest.raises(WiringError, match=r"calibration.*logits"):
        export_run(run, tmp_path / "out", format="hf")


@pytest.mark.parametrize(
    "facts", [ExportFacts(threshold=0.45), ExportFacts(threshold=0.5001)], ids=["far off", "by a little"]
)
def test_wrong_export_keeps_the_old_one(facts, tmp_path, monkeypatch):
    run = make_untrained_run(tmp_path / "run")
    export_run(run, tmp_path / "out", format="hf")
    before = {path: sha256_of(path) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    right = export.write_config
    # The head is folded for a threshold of 0.5, but the folder records another one.
    monkeypatch.setattr(export, "write_config", lambda network, folder, _: right(network, folder, facts))
    if abs(facts.threshold - 0.5) < 1e-3:
        monkeypatch.setattr("roadwork.export.parity.PROBABILITY_LIMIT", 1e-5)
    with pytest.raises(WiringError, match=r"read back.*probabilities"):
        export_run(run, tmp_path / "out", format="hf")
    assert {path: sha256_of(path) for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_calibration_of_other_predictions_is_rejected(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    frame = read_predictions(run / "predictions.parquet")
    rows = frame.index[frame["split"] == "val_calib"]
    frame.loc[rows[0], "logit_none"] += 1e-9
    frame.to_parquet(run / "predictions.parquet")
    with pytest.raises(DataError, match="roadwork calibrate RUN"):
        export_run(run, tmp_path / "out", format="hf")
    (run / "calibration.json").unlink()
    assert export_run(run, tmp_path / "out", format="hf").facts is None


def test_unevaluated_weights_are_rejected(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    best = run / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(best, weights_only=True)
    torch.save(checkpoint | {"epoch": 7}, best)
    with pytest.raises(DataError, match=r"best\.ckpt.*`roadwork evaluate`"):
        export_run(run, tmp_path / "out", format="hf")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"sha256_of_rows": "", "temperature": 0}'])
def test_damaged_calibration_is_rejected(content, tmp_path):
    run = make_untrained_run(tmp_path / "run")
    (run / "calibration.json").write_text(content)
    with pytest.raises(DataError, match=r"calibration\.json"):
        export_run(run, tmp_path / "out", format="hf")


def test_export_contains_no_local_path(tmp_path):
    """The backbone is loaded from a folder in tmp_path, and torch's traces contain paths of the environment."""
    backbone = tmp_path / "somebodys-secret-folder"
    first = make_untrained_run(tmp_path / "first", "vit")
    export_run(first, backbone, format="hf")
    run = make_untrained_run(tmp_path / "run", str(backbone), "none", "model.pretrained=true")
    for form in ("hf", "onnx"):
        export_run(run, tmp_path / form, format=form)
        written = b"".join(path.read_bytes() for path in (tmp_path / form).rglob("*") if path.is_file())
        origins = (str(tmp_path), "secret", str(Path(torch.__file__).parents[1]), str(Path(export.__file__).parent))
        assert [origin for origin in origins if origin.encode() in written] == []


def test_replay_has_the_runs_predictions(tiny_run, tmp_path):
    export_run(tiny_run, tmp_path / "out", format="hf")
    detector = Detector.load(tmp_path / "out", device="cpu")
    photos = read_replay(tmp_path / "out")
    answers = detector.predict_many([photo.file for photo in photos])
    assert [answer.probability for answer in answers] == pytest.approx([p.probability for p in photos], abs=1e-6)
    assert [answer.label == "Roadwork" for answer in answers] == [photo.is_roadwork for photo in photos]


def test_unknown_format_is_rejected(tiny_run, tmp_path):
    with pytest.raises(ConfigError, match="hf, onnx"):
        export_run(tiny_run, tmp_path / "out", format="tflite")
