"""A complete run of a pooled classifier: training, evaluation, calibration, export and verification."""

import json

import numpy as np
import pytest
import torch
from fixtures.detectors import ALL_NETWORKS, SIZE

from roadwork.calibration.calibrate import CalibrationOptions
from roadwork.calibration.run import calibrate_run
from roadwork.config import load_yaml, to_settings
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.dataset import UnreadableLedger
from roadwork.data.features import compute_features
from roadwork.data.source import read_dataset
from roadwork.evaluation.evaluate import evaluate_run, load_best_model
from roadwork.export.export import export_run
from roadwork.export.verify import VerifyOptions, verify_export
from roadwork.metrics.predictions import read_predictions
from roadwork.models.build import build_model
from roadwork.models.classifier import PooledClassifier
from roadwork.models.regularization import _DropOutput
from roadwork.report.sections.training import selected_epoch
from roadwork.runs.run import LAST, Run
from roadwork.settings import ModelSettings
from roadwork.training.callbacks import mcc_callback
from roadwork.training.trainers.base_trainer import MONITOR, BaseTrainer

KEYS = ("model.name=dinov3_vit", "model.pooling=mean", "model.drop_path=0.2", "model.head_dropout=0.2")


def train(cfg):
    cfg.model.config = ALL_NETWORKS["dinov3_vit"]
    settings = to_settings(cfg)
    torch.manual_seed(0)
    run = BaseTrainer(cfg, build_model(settings.model, settings.data.img_size)).fit(NATIXDataModule(cfg))
    evaluate_run(run)
    calibrate_run(run, CalibrationOptions())
    return run


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_export_of_a_pooled_run_matches_the_run(frozen, tiny_config, tmp_path):
    overrides = ["training.freeze_backbone=true", "data.augmentation.train.mode=none"] if frozen else []
    run = train(tiny_config(*KEYS, *overrides))
    best = load_best_model(run, to_settings(load_yaml(run / "config.yaml")))
    assert isinstance(best, PooledClassifier)
    assert any(isinstance(hook, _DropOutput) for part in best.modules() for hook in part._forward_hooks.values())
    summary = export_run(run, tmp_path / "out", format="hf")
    assert summary.model_type == "roadwork_pooled"
    assert not np.isnan(read_predictions(run / "predictions.parquet")["probability_calibrated"]).any()
    found = verify_export(tmp_path / "out", VerifyOptions(run=run, run_rows=12, consumer="streetvision"))
    assert all(comparison.is_right for comparison in found.comparisons), found.comparisons
    assert {check.name for check in found.checks if check.status == "failed"} == {"model type"}


def test_feature_cache_depends_on_pooling_only(tiny_config, tmp_path, monkeypatch):
    """Drop path and dropout are off when features are computed."""
    monkeypatch.setenv("ROADWORK_CACHE", str(tmp_path / "cache"))
    found = {}
    for keys in ({}, {"drop_path": 0.5, "head_dropout": 0.5}, {"pooling": "cls"}, {"pooling": "mean"}):
        found[str(keys)] = _features(tiny_config(), keys)
    auto, dropping, cls, mean = found.values()
    assert auto.backbone == dropping.backbone == cls.backbone != mean.backbone  # auto is cls
    assert np.array_equal(auto.values, dropping.values)
    assert not np.allclose(auto.values, mean.values, atol=1e-3)


def _features(cfg, keys):
    settings = to_settings(cfg)
    torch.manual_seed(0)
    network = build_model(ModelSettings(name="dinov3_vit", config=ALL_NETWORKS["dinov3_vit"], **keys), SIZE)
    table, source = read_dataset(settings.data)
    ledger = UnreadableLedger(table, settings.data.max_unreadable)
    return compute_features(network, settings, ledger, source, np.arange(4))


@pytest.mark.parametrize(("select", "epoch"), [("best", 0), ("last", 2)])
def test_the_selected_epoch_is_stored_for_evaluation(select, epoch, tiny_config, monkeypatch):
    scores = iter([0.9, 0.5, 0.4])

    def log(name, counts, trainer, module):
        value = next(scores) if name == MONITOR else 0.0
        module.log(name, value)
        return value

    monkeypatch.setattr(mcc_callback, "_log_mcc", log)
    cfg = tiny_config(f"training.select={select}", "training.epochs=3", "data.augmentation.train.mode=none")
    settings = to_settings(cfg)
    run = Run(BaseTrainer(cfg, build_model(settings.model, settings.data.img_size)).fit(NATIXDataModule(cfg)))
    assert torch.load(run.best_checkpoint, weights_only=True)["epoch"] == epoch
    assert torch.load(run.checkpoint_folder / LAST, weights_only=True)["epoch"] == 2
    assert selected_epoch(read_metrics(run), select) == epoch


def read_metrics(run):
    lines = run.metrics_file.read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if "epoch" in entry]
