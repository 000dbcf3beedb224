"""Lightning's stages of the data module: their images, in any order, and with a Trainer."""

import lightning as L
import pytest
import torch

from roadwork.data.datamodule import NATIXDataModule


class Tiny(L.LightningModule):
    """Counts the rows of each stage."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.rows = []

    def training_step(self, batch, batch_idx):
        self.rows.append(batch["index"])
        return self.layer(batch["image"].mean(dim=(2, 3))).sum()

    def validation_step(self, batch, batch_idx):
        assert batch["image"].is_floating_point()
        self.rows.append(batch["index"])

    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        self.validation_step(batch, batch_idx)
        return batch["index"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture
def datamodule(tiny_config):
    return NATIXDataModule(tiny_config("data.cache=ram", "data.dataloader.num_workers=0"))


@pytest.fixture
def trainer(tmp_path):
    return L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False, default_root_dir=tmp_path,
    )  # fmt: skip


def is_cached(datamodule, split):
    return datamodule.datasets[split].store.loaded is not None


@pytest.mark.parametrize("first", ["validate", "test", "predict"])
def test_fit_after_another_stage_has_its_ram_cache(datamodule, first):
    datamodule.setup(first)
    assert not any(is_cached(datamodule, split) for split in datamodule.datasets)
    datamodule.setup("fit")
    assert [split for split in datamodule.datasets if is_cached(datamodule, split)] == ["train", "val_select"]


@pytest.mark.parametrize("stage", ["fit", "predict", None])
def test_same_stage_again_does_nothing(datamodule, stage):
    datamodule.setup(stage)
    table, datasets = datamodule.table, dict(datamodule.datasets)
    datamodule.setup(stage)
    assert datamodule.table is table
    assert datamodule.datasets == datasets
    assert is_cached(datamodule, "train") is (stage != "predict")


def test_validation_after_a_fit_reads_photos(datamodule, trainer):
    trainer.fit(Tiny(), datamodule=datamodule)
    assert trainer.val_dataloaders.dataset.store.loaded is not None
    trainer.validate(Tiny(), datamodule=datamodule, verbose=False)
    assert trainer.val_dataloaders.dataset.store.loaded is None


def test_trainer_predicts_the_chosen_splits(datamodule, trainer):
    splits = ("val_calib", "val_test")
    datamodule.predict_splits = splits
    predicted = trainer.predict(Tiny(), datamodule=datamodule)
    assert [torch.cat(batches).tolist() for batches in predicted] == [
        datamodule.datasets[split].rows.tolist() for split in splits
    ]


def test_trainer_tests_val_test_with_a_warning(datamodule, trainer, caplog):
    module = Tiny()
    trainer.test(module, datamodule=datamodule, verbose=False)
    assert torch.cat(module.rows).tolist() == datamodule.datasets["val_test"].rows.tolist()
    assert "val_test" in caplog.text


def test_sampler_is_described_once(datamodule, caplog):
    datamodule.setup("fit")
    caplog.set_level("INFO", logger="roadwork")
    first, second = (list(datamodule.train_dataloader().sampler) for _ in range(2))
    assert first == second
    assert caplog.text.count("GPS sampling aims at") == 1
