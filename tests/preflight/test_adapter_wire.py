"""Cuts each wire of an adapter in turn, and sees the dry run say so."""

import pytest
import torch
from fixtures.adapter_runs import make_pretrained

from roadwork.data.datamodule import NATIXDataModule
from roadwork.preflight.dry_run import run_dry
from roadwork.training.callbacks.ema_callback import EMACallback
from roadwork.training.module import RoadworkClassifier
from roadwork.training.trainers.factory import prepare_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture
def rows(tiny_config, tmp_path):
    """Makes the wiring table of a tiny pretrained network with LoRA, once `cut` has changed the trainer."""

    def make(cut=lambda trainer: None):
        cfg = tiny_config("training.adapter=lora", "data.dataloader.num_workers=0")
        cfg.model.name, cfg.model.pretrained, cfg.model.config = str(make_pretrained(tmp_path / "vit", "vit")), True, {}
        datamodule = NATIXDataModule(cfg)
        trainer = prepare_trainer(datamodule)
        cut(trainer)
        return {row.wire: row for row in run_dry(datamodule, trainer)}

    return make


def dead(rows):
    return {wire for wire, row in rows.items() if not row.works}


def test_working_adapter_passes(rows):
    table = rows()
    assert dead(table) == set()
    observed = table["adapter (lora)"].observed
    assert "lora on q_proj, k_proj, v_proj, o_proj, fc1, fc2 in 2 blocks: 12 layers, and the head" in observed
    assert "12 of 12 layers and 2 of 2 tensors of the head moved, 0 of" in observed
    assert "frozen ones are omitted" in table["checkpoint"].observed


@pytest.mark.slow
def test_a_layer_whose_adapter_is_frozen(rows):
    def freeze_one(trainer):
        for name, parameter in trainer.module.model.named_parameters():
            if "layers.1.mlp.fc1.lora_" in name:
                parameter.requires_grad_(requires_grad=False)

    table = rows(freeze_one)
    assert "adapter (lora)" in dead(table)
    assert "11 of 12 layers, not " in table["adapter (lora)"].observed


@pytest.mark.slow
def test_a_weight_of_the_network_that_is_trained(rows, monkeypatch):
    """The optimizer row sees nothing amiss: what is trainable moved."""

    def unfreeze_one(trainer):
        parameters = dict(trainer.module.model.named_parameters())
        next(p for name, p in parameters.items() if "fc1.base_layer.weight" in name).requires_grad_()

    monkeypatch.setattr(EMACallback, "on_fit_start", lambda self, trainer, pl_module: None)
    table = rows(unfreeze_one)
    assert "adapter (lora)" in dead(table)
    assert "fc1.base_layer.weight" in table["adapter (lora)"].observed
    assert "optimizer" not in dead(table)


def test_a_checkpoint_without_a_weight_that_was_trained(rows, monkeypatch):
    original = RoadworkClassifier.on_save_checkpoint

    def save(self, checkpoint):
        original(self, checkpoint)
        del checkpoint["state_dict"][next(key for key in checkpoint["state_dict"] if "lora_B" in key)]

    monkeypatch.setattr(RoadworkClassifier, "on_save_checkpoint", save)
    assert dead(rows()) == {"checkpoint"}


def test_a_frozen_weight_that_moves_under_its_fingerprint(rows, monkeypatch):
    original = RoadworkClassifier.training_step

    def step(self, batch, batch_idx):
        with torch.no_grad():
            self.model.get_parameter(self.omitted.names[-1]).add_(1e-3)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(RoadworkClassifier, "training_step", step)
    assert {"adapter (lora)", "checkpoint"} <= dead(rows())
