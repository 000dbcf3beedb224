"""Wiring table: every check passes a working run and fails when what it checks is broken."""

import numpy as np
import pytest
import torch
from fixtures.wiring import failed, failed_checks, prepare, run_checks, wiring_table
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, SequentialSampler

from roadwork.cli import main
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.dataset import RoadworkDataset
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler
from roadwork.preflight.dry_run import run_dry
from roadwork.training.callbacks.adalora_callback import AdaLoraCallback
from roadwork.training.callbacks.ema_callback import EMACallback
from roadwork.training.callbacks.mcc_callback import MCCCallback
from roadwork.training.devices import build_lightning_trainer
from roadwork.training.module import RoadworkClassifier
from roadwork.training.trainers.factory import prepare_trainer

TINY_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "patch_size": 8,
}


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("data.augmentation.train.mode=heavy_kornia",),
        ("training.use_ema=false",),
        ("training.accumulate=2",),
        ("data.gps_sampling.enabled=false",),
        ("data.gps_sampling.draw=iid",),
        ("training.ema_warmup=false",),
        ("training.adapter=lora",),
        ("data.dataloader.batch_size=2",),
        ("training.accumulate=50",),
        ("training.precision=bf16-mixed",),
        ("data.gps_sampling.weight_brackets=[[0,inf,1]]",),
    ],
    ids=lambda overrides: overrides[0] if overrides else "defaults",
)
def test_every_check_of_a_working_run_passes(tiny_config, overrides):
    table = wiring_table(tiny_config(*overrides))
    assert failed(table) == {}
    assert len(table) >= 11


def test_dry_run_leaves_no_files(tiny_config, demo_root, tmp_path):
    before = sorted(demo_root.rglob("*"))
    wiring_table(tiny_config())
    assert sorted(demo_root.rglob("*")) == before
    assert not (tmp_path / "outputs").exists()


def test_loader_without_the_sampler_fails(tiny_config, monkeypatch):
    def loader_in_order(self, split, sampler):
        return original(self, split, SequentialSampler(self.datasets[split]) if split == "train" else sampler)

    original = NATIXDataModule._loader
    monkeypatch.setattr(NATIXDataModule, "_loader", loader_in_order)
    assert {"sampler", "sampler's next epoch"} <= failed_checks(tiny_config())


def test_sampler_in_file_order_fails(tiny_config, monkeypatch):
    monkeypatch.setattr(GPSWeightedSampler, "__iter__", lambda self: iter(range(len(self))))
    assert {"sampler", "sampler's next epoch"} <= failed_checks(tiny_config())


def test_sampler_that_ignores_its_weights_fails(tiny_config, monkeypatch):
    monkeypatch.setattr(GPSWeightedSampler, "__iter__", lambda self: iter(torch.randperm(len(self)).tolist()))
    assert failed_checks(tiny_config()) == {"sampler's next epoch"}


def test_validation_on_another_split_fails(tiny_config, monkeypatch):
    original = NATIXDataModule.setup

    def setup(self, stage=None):
        original(self, stage)
        self.datasets["val_select"] = self.datasets["train"]

    monkeypatch.setattr(NATIXDataModule, "setup", setup)
    assert failed_checks(tiny_config()) == {"splits"}


def test_augmentation_that_is_never_called_fails(tiny_config, monkeypatch):
    monkeypatch.setattr(NATIXDataModule, "augment", lambda self, images, labels: (images, labels))
    assert failed_checks(tiny_config()) == {"augmentation (latest_2025)", "labels of training"}


def test_augmentation_in_validation_fails(tiny_config, monkeypatch):
    def transfer(self, batch, dataloader_idx):
        images, labels = batch["image"].float() / 255, batch["label"]
        images, mixed = self.augment(images, labels)
        return batch | {"image": self.normalise(images), "label": mixed if self.trainer.training else labels}

    monkeypatch.setattr(NATIXDataModule, "on_after_batch_transfer", transfer)
    assert failed_checks(tiny_config()) == {"no augmentation in validation"}


def test_soft_labels_that_do_not_sum_to_one_fail(tiny_config, monkeypatch):
    original = NATIXDataModule.augment

    def augment(self, images, labels):
        images, soft = original(self, images, labels)
        return images, soft * 0.9

    monkeypatch.setattr(NATIXDataModule, "augment", augment)
    assert failed_checks(tiny_config()) == {"labels of training"}


def test_hard_labels_of_mixed_images_fail(tiny_config, monkeypatch):
    original = NATIXDataModule.augment
    monkeypatch.setattr(
        NATIXDataModule, "augment", lambda self, images, labels: (original(self, images, labels)[0], labels)
    )
    assert failed_checks(tiny_config()) == {"labels of training"}


@pytest.mark.parametrize("name", ["mcc", "ema"])
def test_unregistered_callback_fails(tiny_config, name):
    datamodule, trainer = prepare(tiny_config())
    trainer.callbacks.remove(getattr(trainer, f"{name}_callback"))
    failures = failed(run_checks(datamodule, trainer))
    assert ("MCC" if name == "mcc" else "EMA average") in failures


def test_trainer_without_our_callbacks_fails(tiny_config, monkeypatch):
    def without_ours(training, callbacks, folder, **limits):
        kept = [c for c in callbacks if not isinstance(c, (MCCCallback, EMACallback))]
        return build_lightning_trainer(training, kept, folder, **limits)

    monkeypatch.setattr("roadwork.preflight.dry_run.build_lightning_trainer", without_ours)
    expected = {"MCCCallback called", "EMACallback called", "MCC", "EMA average", "EMA in validation"}
    assert expected <= failed_checks(tiny_config())


def test_mcc_of_wrong_labels_fails(tiny_config, monkeypatch):
    original = MCCCallback.on_validation_batch_end

    def flipped(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        labels = torch.zeros_like(outputs["labels"])
        original(self, trainer, pl_module, outputs | {"labels": labels}, batch, batch_idx, dataloader_idx)

    monkeypatch.setattr(MCCCallback, "on_validation_batch_end", flipped)
    assert failed_checks(tiny_config("training.use_ema=false")) == {"MCC"}


def test_ema_without_updates_fails(tiny_config, monkeypatch):
    monkeypatch.setattr(EMACallback, "update", lambda self: None)
    assert "EMA average" in failed_checks(tiny_config())


def test_ema_with_another_decay_fails(tiny_config):
    datamodule, trainer = prepare(tiny_config("training.ema_warmup=false", "training.ema_decay=0.9"))
    trainer.ema_callback.decay = 0.5
    assert set(failed(run_checks(datamodule, trainer))) >= {"EMA average"}


def test_ema_with_two_updates_per_step_fails(tiny_config, monkeypatch):
    original = EMACallback.update

    def twice(self):
        original(self)
        original(self)

    monkeypatch.setattr(EMACallback, "update", twice)
    assert "EMA average" in failed_checks(tiny_config())


def test_ema_not_applied_in_validation_fails(tiny_config, monkeypatch):
    monkeypatch.setattr(EMACallback, "_begin_evaluation", lambda self: None)
    assert "EMA in validation" in failed_checks(tiny_config())


def test_ema_not_restored_after_validation_fails(tiny_config, monkeypatch):
    monkeypatch.setattr(EMACallback, "_end_evaluation", lambda self: None)
    assert "EMA in validation" in failed_checks(tiny_config())


def test_checkpoint_of_raw_weights_fails(tiny_config, monkeypatch):
    monkeypatch.setattr(EMACallback, "on_save_checkpoint", lambda self, trainer, module, checkpoint: None)
    assert failed_checks(tiny_config()) == {"checkpoint"}


def test_optimizer_without_a_parameter_fails(tiny_config, monkeypatch):
    from roadwork.training import optim

    original = optim.parameter_groups

    def without_the_first(model, weight_decay):
        groups = original(model, weight_decay)
        groups[0]["params"] = groups[0]["params"][1:]
        return groups

    monkeypatch.setattr(optim, "parameter_groups", without_the_first)
    assert "optimizer" in failed_checks(tiny_config())


def test_parameter_without_gradient_fails(tiny_config, monkeypatch):
    datamodule, trainer = prepare(tiny_config("training.use_ema=false"))
    trainer.module.model.register_parameter("lost", torch.nn.Parameter(torch.ones(3)))
    failures = failed(run_checks(datamodule, trainer))
    assert "gradients" in failures


def test_frozen_layer_that_changes_fails(tiny_config, monkeypatch):
    datamodule, trainer = prepare(tiny_config("training.adapter=lora", "training.use_ema=false"))
    original = RoadworkClassifier.training_step

    def step(self, batch, batch_idx):
        with torch.no_grad():
            next(p for p in self.model.parameters() if not p.requires_grad).add_(0.1)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(RoadworkClassifier, "training_step", step)
    assert "optimizer" in set(failed(run_checks(datamodule, trainer)))


def test_non_finite_loss_fails(tiny_config):
    assert "loss" in failed_checks(tiny_config("training.lr=1e30", "training.warmup=0", "training.clip_norm=0"))


def test_zero_learning_rate_fails(tiny_config, monkeypatch):
    monkeypatch.setattr(
        "roadwork.training.module.warmup_cosine",
        lambda optimizer, total, warmup: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0),
    )
    assert {"loss", "optimizer"} <= failed_checks(tiny_config())


def test_adalora_without_pruning_fails(tiny_config, monkeypatch):
    monkeypatch.setattr(AdaLoraCallback, "on_train_batch_end", lambda *args: None)
    assert "AdaLoRA" in failed_checks(tiny_config("training.adapter=adalora"))


def prune_one_layer(monkeypatch):
    """Makes AdaLoRA prune all ranks of one layer, as it does if other layers are more important."""
    original = AdaLoraCallback.on_train_batch_end

    def prune(self, trainer, pl_module, *arguments):
        original(self, trainer, pl_module, *arguments)
        name, values = next((n, p) for n, p in pl_module.model.named_parameters() if "lora_E" in n)
        values.data.zero_()
        self.ema_callback.shadow[name].zero_()

    monkeypatch.setattr(AdaLoraCallback, "on_train_batch_end", prune)


def test_adalora_that_prunes_a_whole_layer_passes(tiny_config, monkeypatch):
    prune_one_layer(monkeypatch)
    table = wiring_table(tiny_config("training.adapter=adalora"))
    assert failed(table) == {}
    assert "1 pruned" in table["optimizer"].observed


def test_singular_values_missing_from_optimizer_fail(tiny_config, monkeypatch):
    from roadwork.training import optim

    original = optim.parameter_groups

    def without_one(model, weight_decay):
        lost = next(p for n, p in model.named_parameters() if "lora_E" in n)
        groups = original(model, weight_decay)
        return [group | {"params": [p for p in group["params"] if p is not lost]} for group in groups]

    monkeypatch.setattr(optim, "parameter_groups", without_one)
    assert "optimizer" in failed_checks(tiny_config("training.adapter=adalora"))


def test_training_loader_is_a_plain_dataloader(tiny_config):
    datamodule, _ = prepare(tiny_config())
    datamodule.setup("fit")
    assert isinstance(datamodule.train_dataloader(), DataLoader)


def test_wrong_validation_labels_fail(tiny_config, monkeypatch):
    original = RoadworkDataset.__getitem__
    monkeypatch.setattr(
        RoadworkDataset, "__getitem__", lambda self, i: original(self, i) | {"label": 1 - original(self, i)["label"]}
    )
    assert failed_checks(tiny_config("data.augmentation.train.mode=heavy_kornia")) == {"labels of validation"}


def test_sampler_that_repeats_few_rows_fails(tiny_config, monkeypatch):
    def first_of_its_weight(self):
        order = self.epoch_order()
        _, first, inverse = np.unique(self.weights, return_index=True, return_inverse=True)
        return iter(first[inverse[order]].tolist())

    monkeypatch.setattr(GPSWeightedSampler, "__iter__", first_of_its_weight)
    assert failed_checks(tiny_config()) == {"sampler's next epoch"}


def test_flipped_labels_fail_with_few_mixed_batches(tiny_config, monkeypatch):
    original = NATIXDataModule.augment

    def augment(self, images, labels):
        images, soft = original(self, images, labels)
        return images, soft.flip(1)

    monkeypatch.setattr(NATIXDataModule, "augment", augment)
    assert failed_checks(tiny_config("data.augmentation.train.mix_probability=0.2")) == {"labels of training"}


def test_ema_without_buffers_fails(tiny_config):
    """Otherwise BatchNorm would validate and be saved with the statistics of the raw weights."""
    datamodule, trainer = prepare(tiny_config())
    trainer.ema_callback.shadow_buffers.clear()
    assert set(failed(run_checks(datamodule, trainer))) == {"EMA average"}


def test_checkpoint_with_raw_buffers_fails(tiny_config, monkeypatch):
    original = EMACallback.on_save_checkpoint

    def save(self, trainer, pl_module, checkpoint):
        original(self, trainer, pl_module, checkpoint)
        raw = checkpoint["raw_state_dict"]
        checkpoint["state_dict"].update({key: raw[key] for key in raw if "running_" in key})

    monkeypatch.setattr(EMACallback, "on_save_checkpoint", save)
    assert failed_checks(tiny_config()) == {"checkpoint"}


def test_failed_check_ends_the_command(tiny_config, monkeypatch, tmp_path):
    monkeypatch.setattr(EMACallback, "update", lambda self: None)
    OmegaConf.save(tiny_config(), tmp_path / "tiny.yaml")
    for arguments in (["--dry-run"], []):
        with pytest.raises(SystemExit) as ended:
            main(["train", "--config", str(tmp_path / "tiny.yaml"), *arguments])
        assert ended.value.code == 1
    assert not (tmp_path / "outputs").exists()


def test_dry_run_does_not_change_later_training(tiny_config):
    weights = []
    for is_dry_run_first in (False, True):
        datamodule, trainer = prepare(tiny_config())
        if is_dry_run_first:
            run_dry(datamodule, trainer)
            trainer = prepare_trainer(datamodule)
        folder = trainer.fit(datamodule)
        weights.append(torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["raw_state_dict"])
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


@pytest.mark.parametrize("adapter", ["lora", "adalora", "vera"])
def test_adapters_on_a_dataset_smaller_than_a_batch(tiny_config, adapter):
    """With one step per epoch, LoRA's A gets its first gradient in the second epoch."""
    cfg = tiny_config("data.dataloader.batch_size=500", f"training.adapter={adapter}", "training.epochs=2")
    cfg.model.name, cfg.model.config = "vit", TINY_VIT
    assert failed_checks(cfg) == set()


def test_user_augmentation_and_deployment_pass(tiny_config):
    """The checks follow the user's module, although the configured mode, latest_2025, mixes images."""

    class Darken(torch.nn.Module):
        def forward(self, images, labels):
            return images * 0.5, labels

    class Own(NATIXDataModule):
        def _get_train_transforms(self, cfg):
            return Darken()

        def _get_test_gps_coords(self):
            return np.array([[-33.9, 151.2]])

    datamodule = Own(tiny_config("data.gps_sampling.n_clusters=1"))
    table = run_checks(datamodule, prepare_trainer(datamodule))
    assert failed(table) == {}
    assert "augmentation (Darken)" in table
