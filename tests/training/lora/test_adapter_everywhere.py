"""Every adapter on every family trains, saves, resumes, merges and exports."""

import re
import shutil

import pytest
import torch
from fixtures.adapter_runs import EPOCHS, adapter_config, make_pretrained, prepare, train
from fixtures.detectors import ALL_NETWORKS, SIZE
from omegaconf import OmegaConf

from roadwork.config import compose_config, to_settings
from roadwork.core.errors import ConfigError
from roadwork.data.images import to_network_input
from roadwork.detector.detector import Detector
from roadwork.evaluation.evaluate import load_best_model
from roadwork.export.export import export_run
from roadwork.models.processor import IMAGENET_STATISTICS
from roadwork.settings import ADAPTERS, Settings
from roadwork.training.lora.apply import merge_adapter
from roadwork.training.lora.targets import adapter_summary

QUICK = {*((family, "lora") for family in ALL_NETWORKS), *(("vit", adapter) for adapter in ADAPTERS)}
IMPOSSIBLE = {("resnet", "vera")}

pytestmark = [
    # Lightning's tips, and a name that peft 0.21 reads and transformers 5.23 deprecated.
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]


@pytest.fixture(autouse=True)
def _composed_once(monkeypatch):
    """Composing the configuration again would take most of these tests' time."""

    def compose(cfg):
        return cfg if OmegaConf.get_type(cfg) is Settings else compose_config(cfg)

    for name in ("roadwork.config.compose_config", "roadwork.training.trainers.base_trainer.compose_config"):
        monkeypatch.setattr(name, compose)


@pytest.mark.parametrize(
    ("family", "adapter"),
    [
        pytest.param(family, adapter, marks=() if (family, adapter) in QUICK else pytest.mark.slow)
        for family in ALL_NETWORKS
        for adapter in ADAPTERS
        if (family, adapter) not in IMPOSSIBLE
    ],
)
def test_trains_saves_resumes_merges_and_is_exported(family, adapter, tmp_path):
    cfg = adapter_config(make_pretrained(tmp_path / "pretrained", family), adapter)
    settings = to_settings(cfg)
    uninterrupted = prepare(cfg)
    before = {name: value.clone() for name, value in uninterrupted.module.model.named_parameters()}
    train(uninterrupted, tmp_path / "run")
    moved = {n for n, p in uninterrupted.module.model.named_parameters() if not torch.equal(p, before[n])}
    trained = {n for n, p in uninterrupted.module.model.named_parameters() if p.requires_grad}
    assert moved <= trained
    for target in adapter_summary(uninterrupted.module.model).targets:
        assert any(f".{target}." in name for name in moved), target
    assert any("classifier" in name for name in moved)

    checkpoints = tmp_path / "run" / "checkpoints"
    saved = torch.load(checkpoints / f"{EPOCHS - 1}.ckpt", weights_only=True)
    if adapter == "none":
        assert "left_out" not in saved
    else:
        held = {name.removeprefix("model.") for name in saved["state_dict"]}
        assert trained <= held
        # Position embeddings stay too, and unused pooling heads and masks.
        frozen = sum(before[name].numel() for name in before if name not in trained)
        assert sum(before[name].numel() for name in saved["left_out"]["names"]) > 0.5 * frozen
        assert not held & set(saved["left_out"]["names"])

    resumed = train(prepare(cfg), tmp_path / "run", resume_from=checkpoints / "0.ckpt")
    for name, value in uninterrupted.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], value), name
    for name, average in uninterrupted.ema_callback.shadow.items():
        assert torch.equal(resumed.ema_callback.shadow[name], average), name

    shutil.copy(checkpoints / f"{EPOCHS - 1}.ckpt", checkpoints / "best.ckpt")
    best = load_best_model(tmp_path / "run", settings)
    for name, average in uninterrupted.ema_callback.shadow.items():
        assert torch.equal(best.get_parameter(name), average), name
    pixels = torch.randint(256, (4, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    images = to_network_input(pixels, IMAGENET_STATISTICS)
    with torch.no_grad():
        expected = best(pixel_values=images).logits
        merged = merge_adapter(best)
        assert not [name for name, _ in merged.named_modules() if re.search("lora|vera|ia3|base_layer", name)]
        assert (merged(pixel_values=images).logits - expected).abs().max() < 1e-4
    export_run(tmp_path / "run", tmp_path / "model", format="hf")
    exported = Detector.load(tmp_path / "model", device="cpu").logits(pixels)
    assert (exported.diff() - expected.diff()).abs().max() < 1e-4


@pytest.mark.parametrize(("family", "adapter"), sorted(IMPOSSIBLE))
def test_unsupported_adapter_names_the_alternative(family, adapter, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.adapter=lora"):
        prepare(adapter_config(make_pretrained(tmp_path, family), adapter))
