"""A run is resumed only with the same configuration, data and splits."""

import csv
import json

import pytest
from omegaconf import OmegaConf

from roadwork.core.errors import ConfigError, DataError, SplitError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.training.trainers.factory import prepare_trainer


@pytest.fixture
def begun(tiny_config):
    """A run of one epoch."""
    datamodule = NATIXDataModule(tiny_config())
    return prepare_trainer(datamodule).fit(datamodule)


def resume(folder, cfg):
    datamodule = NATIXDataModule(cfg)
    return prepare_trainer(datamodule).fit(datamodule, resume_from=folder)


def test_more_epochs_are_allowed(begun, tiny_config):
    assert resume(begun, tiny_config("training.epochs=2", "training.patience=3")) == begun
    assert len((begun / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("override", ["training.lr=0.5", "data.dataloader.batch_size=8", "training.use_ema=false"])
def test_key_fixed_by_the_checkpoint_is_an_error(begun, tiny_config, override):
    before = (begun / "config.yaml").read_text()
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"{key}.*--resume"):
        resume(begun, tiny_config("training.epochs=2", override))
    assert (begun / "config.yaml").read_text() == before


def test_splits_that_train_on_evaluation_rows_are_an_error(begun, tiny_config, tmp_path):
    content = json.loads((begun / "splits.json").read_text())
    lists = content["splits"]
    lists["train"], lists["val_select"] = (
        [*lists["train"][1:], lists["val_select"][0]],
        [*lists["val_select"][1:], lists["train"][0]],
    )
    (tmp_path / "own.json").write_text(json.dumps(lists))
    before = (begun / "splits.json").read_bytes()
    with pytest.raises(SplitError, match="train, val_select"):
        resume(begun, tiny_config("training.epochs=2", f"data.splits_file={tmp_path / 'own.json'}"))
    assert (begun / "splits.json").read_bytes() == before


def test_changed_labels_are_an_error(begun, tiny_config, tmp_path, demo_root):
    with (demo_root / "labels.csv").open() as file:
        row = next(csv.DictReader(file))
    now, other = (1, 0) if row["label"] == "Roadwork" else (0, 1)
    (tmp_path / "audit.csv").write_text(f"id,label,corrected_label\n{row['filename']},{now},{other}\n")
    config = tiny_config("training.epochs=2", f"data.label_corrections={tmp_path / 'audit.csv'}")
    config = OmegaConf.load(begun / "config.yaml")
    config.data.label_corrections = str(tmp_path / "audit.csv")  # the same configuration; only the file changed
    OmegaConf.save(config, begun / "config.yaml")
    with pytest.raises(DataError, match=r"data.*data\.label_corrections"):
        resume(begun, config)


def test_run_without_a_checkpoint_is_an_error(begun, tiny_config):
    (begun / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(DataError, match="--resume"):
        resume(begun, tiny_config("training.epochs=2"))
