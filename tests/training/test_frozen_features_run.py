"""A head trained on stored features equals a head trained on the images."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.config import CHECKOUT
from sklearn.metrics import matthews_corrcoef
from test_frozen import TINY

from roadwork.core.errors import DataError
from roadwork.data import datamodule as datamodule_module
from roadwork.data import features as features_module
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.dataset import ResumableLoader
from roadwork.data.features import FeatureDataModule
from roadwork.data.images import EVALUATION_SCALE
from roadwork.evaluation.evaluate import evaluate_run
from roadwork.preflight.dry_run import run_dry
from roadwork.training.linear_probe import data_for_head
from roadwork.training.trainers import base_trainer
from roadwork.training.trainers.factory import prepare_trainer

VIT_S14 = CHECKOUT / "../shared/models/vit-s14"
PROBE = (
    "training.freeze_backbone=true",
    "data.augmentation.train.mode=none",
    "data.dataloader.num_workers=0",
    "training.lr=0.01",
    "training.epochs=3",
)


@pytest.fixture
def probe(tiny_config, tmp_path, monkeypatch):
    """Makes a configuration of a linear probe, with its own cache."""
    monkeypatch.setenv("ROADWORK_CACHE", str(tmp_path / "cache"))

    def make(*overrides, name="resnet"):
        cfg = tiny_config(*PROBE, *overrides)
        cfg.model.name, cfg.model.config = name, TINY[name]
        return cfg

    return make


@pytest.fixture
def computed(monkeypatch):
    """The rows whose features are computed, not read."""
    rows, run = [], features_module._run_backbone

    def record(*arguments):
        for row, values in run(*arguments):
            rows.append(row)
            yield row, values

    monkeypatch.setattr(features_module, "_run_backbone", record)
    return rows


def fit(cfg, resume_from=None):
    datamodule = NATIXDataModule(cfg)
    trainer = prepare_trainer(datamodule)
    forwards = []
    trainer.module.model.register_forward_pre_hook(lambda *_: forwards.append(trainer.module.model.training))
    folder = trainer.fit(datamodule, resume_from)
    return trainer, folder, forwards


def checkpoint(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("name", TINY)
def test_head_equals_a_head_trained_on_images(probe, monkeypatch, name):
    torch.manual_seed(0)
    _, folder, forwards = fit(probe(name=name))
    assert len(forwards) == 12  # 180 images in batches of 16, once
    from_features = checkpoint(folder)
    monkeypatch.setattr(base_trainer, "data_for_head", lambda network, datamodule: datamodule)
    monkeypatch.setattr(datamodule_module, "TRAINING_SCALE", EVALUATION_SCALE)
    trainer, folder, forwards = fit(probe(name=name))
    from_images = checkpoint(folder)
    assert len(forwards) > 3 * (144 + 32) / 16
    assert trainer.trainer.global_step == 27
    for kind in ("state_dict", "raw_state_dict"):
        assert from_features[kind].keys() == from_images[kind].keys()
        for key, value in from_images[kind].items():
            torch.testing.assert_close(from_features[kind][key], value, rtol=1e-4, atol=1e-4)
    start = prepare_trainer(NATIXDataModule(probe(name=name))).module.state_dict()
    moved = {key for key, value in start.items() if not torch.equal(value, from_features["state_dict"][key])}
    assert moved == {key for key in start if key.startswith("model.classifier.")}


def test_second_run_reads_cached_features_and_is_identical(probe, computed, caplog):
    with caplog.at_level("INFO", logger="roadwork"):
        _, first, _ = fit(probe())
        assert "features of 180 photos" in caplog.text
        assert sorted(computed) == sorted(set(computed))
        assert len(computed) == 180
        _, second, forwards = fit(probe())
    assert len(computed) == 180
    assert forwards == []
    assert "180 of 180 rows" in caplog.text
    before, after = checkpoint(first)["raw_state_dict"], checkpoint(second)["raw_state_dict"]
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_evaluation_of_the_whole_network_gives_the_logged_mcc(probe):
    _, folder, _ = fit(probe())
    evaluate_run(folder)
    selected = pd.read_parquet(folder / "predictions.parquet").query("split == 'val_select'")
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = max(line["val_select/mcc"] for line in epochs)
    assert best != 0
    assert matthews_corrcoef(selected["label"], selected["probability"] >= 0.5) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("mode", ["latest_2025", "heavy_kornia"])
def test_augmentation_disables_cached_features_with_a_log(probe, computed, caplog, mode):
    with caplog.at_level("INFO", logger="roadwork"):
        _, folder, forwards = fit(probe(f"data.augmentation.train.mode={mode}", "training.epochs=1"))
    assert computed == []
    assert len(forwards) >= 9 + 2
    assert f"augmentation ({mode}, " in caplog.text
    start = prepare_trainer(NATIXDataModule(probe())).module.state_dict()
    moved = {key for key, value in start.items() if not torch.equal(value, checkpoint(folder)["state_dict"][key])}
    assert moved == {key for key in start if key.startswith("model.classifier.")}


def test_user_augmentation_is_applied(probe, computed):
    """The mode is none, but the module itself decides."""

    class Own(NATIXDataModule):
        def _get_train_transforms(self, cfg):
            return torch.nn.Module()

    datamodule = Own(probe())
    datamodule.setup("fit")
    network = prepare_trainer(datamodule).module.model
    assert data_for_head(network, datamodule) is datamodule
    assert computed == []


def batches(datamodule):
    datamodule.train_dataloader()
    return [(b["index"].tolist(), b["label"].tolist(), b["position"]) for b in datamodule.train_dataloader()]


@pytest.mark.parametrize("sampling", ["true", "false"])
def test_feature_batches_have_the_order_of_image_batches(probe, monkeypatch, sampling):
    datamodule = NATIXDataModule(probe(f"data.gps_sampling.enabled={sampling}"))
    datamodule.setup("fit")
    kept = data_for_head(prepare_trainer(datamodule).module.model, datamodule)
    assert isinstance(kept, FeatureDataModule)
    expected = batches(datamodule)
    assert batches(kept) == expected
    for name in ("train", "val_select"):
        loader = kept.dataloader_for(name)
        assert torch.cat([b["index"] for b in loader]).tolist() == datamodule.datasets[name].rows.tolist()
    batch = next(iter(kept.train_dataloader()))
    assert batch["features"].shape == (16, 16)
    assert batch["features"].dtype == torch.float32
    monkeypatch.setattr(ResumableLoader, "_completed_batches", lambda self: 4)
    assert batches(kept) == expected[4:]


def test_resume_needs_the_same_features(probe, monkeypatch):
    _, folder, _ = fit(probe("training.epochs=1"))
    assert fit(probe("training.epochs=2"), resume_from=folder)[1] == folder
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    monkeypatch.setattr(features_module, "READER_VERSION", 99)
    with pytest.raises(DataError, match=r"features.*model\.name"):
        fit(probe("training.epochs=3"), resume_from=folder)


def test_interrupted_run_equals_an_uninterrupted_run(probe):
    class Stop(base_trainer.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                raise KeyboardInterrupt

    _, uninterrupted, _ = fit(probe())
    datamodule = NATIXDataModule(probe())
    trainer = prepare_trainer(datamodule)
    trainer.callbacks.append(Stop())
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(datamodule)
    _, resumed, _ = fit(probe(), resume_from=trainer.run_folder)
    expected, found = checkpoint(uninterrupted), checkpoint(resumed)
    for kind in ("state_dict", "raw_state_dict"):
        assert all(torch.equal(value, found[kind][key]) for key, value in expected[kind].items())


def test_unreadable_photo_is_recorded_once_and_excluded(probe, demo_root, tmp_path):
    shutil.copytree(demo_root, tmp_path / "photos")
    datamodule = NATIXDataModule(probe(f"data.root={tmp_path / 'photos'}", "data.max_unreadable=0.01"))
    datamodule.setup("fit")
    row = int(datamodule.datasets["train"].rows[5])
    path = datamodule.source.paths[row]
    data = path.read_bytes()
    path.write_bytes(data[:2] + bytes(len(data) - 4) + data[-2:])  # valid header and end, but no pixels between
    kept = data_for_head(prepare_trainer(datamodule).module.model, datamodule)
    assert set(datamodule.ledger.reasons) == {row}
    expected = np.setdiff1d(datamodule.datasets["train"].rows, [row])
    np.testing.assert_array_equal(kept.datasets["train"].rows, expected)
    np.testing.assert_array_equal(kept.datasets["train"].labels, datamodule.table.labels[expected])
    assert len(kept.datasets["train"].features) == len(expected)


def test_real_pretrained_backbone(probe):
    if not VIT_S14.is_dir():
        pytest.skip("shared/models/vit-s14 is not beside this checkout")
    cfg = probe("data.img_size=56", "data.dataloader.batch_size=4")
    cfg.model.name, cfg.model.pretrained, cfg.model.config = str(VIT_S14), True, {}
    datamodule = NATIXDataModule(cfg)
    rows = {row.wire: row for row in run_dry(datamodule, prepare_trainer(datamodule))}
    assert [f"{row.wire}: {row.observed}" for row in rows.values() if not row.works] == []
    assert {"frozen backbone", "frozen features"} <= set(rows)
