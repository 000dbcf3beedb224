"""Wiring table: the adapter check passes a working adapter and fails each broken one."""

import pytest
import torch
from fixtures.adapter_runs import make_pretrained
from fixtures.wiring import failed, prepare, run_checks

from roadwork.training.callbacks.ema_callback import EMACallback
from roadwork.training.module import RoadworkClassifier

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture
def lora_table(tiny_config, tmp_path):
    """Makes the wiring table of a tiny pretrained network with LoRA, after `change(trainer)`."""

    def make(change=lambda trainer: None):
        cfg = tiny_config("training.adapter=lora", "data.dataloader.num_workers=0")
        cfg.model.name, cfg.model.pretrained, cfg.model.config = str(make_pretrained(tmp_path / "vit", "vit")), True, {}
        datamodule, trainer = prepare(cfg)
        change(trainer)
        return run_checks(datamodule, trainer)

    return make


def test_working_adapter_passes(lora_table):
    table = lora_table()
    assert failed(table) == {}
    observed = table["adapter (lora)"].observed
    assert "q_proj, k_proj, v_proj, o_proj, fc1, fc2 in 2 blocks: 12 layers" in observed
    assert all(counts in observed for counts in ("12 of 12 ", "2 of 2 head", "0 of 40 frozen"))
    assert "39 frozen tensors" in table["checkpoint"].observed


@pytest.mark.slow
def test_frozen_adapter_layer_fails(lora_table):
    def freeze_one(trainer):
        for name, parameter in trainer.module.model.named_parameters():
            if "layers.1.mlp.fc1.lora_" in name:
                parameter.requires_grad_(requires_grad=False)

    observed = failed(lora_table(freeze_one))["adapter (lora)"]
    assert "11 of 12 " in observed
    assert "layers.1.mlp.fc1" in observed


@pytest.mark.slow
def test_trained_base_weight_fails(lora_table, monkeypatch):
    """The optimizer check passes, because the weight is trainable."""

    def unfreeze_one(trainer):
        parameters = dict(trainer.module.model.named_parameters())
        next(p for name, p in parameters.items() if "fc1.base_layer.weight" in name).requires_grad_()

    monkeypatch.setattr(EMACallback, "on_fit_start", lambda self, trainer, pl_module: None)
    failures = failed(lora_table(unfreeze_one))
    assert "fc1.base_layer.weight" in failures["adapter (lora)"]
    assert "optimizer" not in failures


def test_checkpoint_without_a_trained_weight_fails(lora_table, monkeypatch):
    original = RoadworkClassifier.on_save_checkpoint

    def save(self, checkpoint):
        original(self, checkpoint)
        del checkpoint["state_dict"][next(key for key in checkpoint["state_dict"] if "lora_B" in key)]

    monkeypatch.setattr(RoadworkClassifier, "on_save_checkpoint", save)
    assert set(failed(lora_table())) == {"checkpoint"}


def test_changed_frozen_weight_fails_adapter_and_checkpoint(lora_table, monkeypatch):
    original = RoadworkClassifier.training_step

    def step(self, batch, batch_idx):
        with torch.no_grad():
            self.model.get_parameter(self.omitted.names[-1]).add_(1e-3)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(RoadworkClassifier, "training_step", step)
    assert {"adapter (lora)", "checkpoint"} <= set(failed(lora_table()))
