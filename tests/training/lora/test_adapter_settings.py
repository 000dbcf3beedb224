"""Every adapter setting reaches the peft configuration, from YAML or the command line."""

import pytest
from fixtures.config import CHECKOUT

from roadwork.config import load_config, to_settings
from roadwork.core.errors import ConfigError
from roadwork.models.build import build_model
from roadwork.settings import ADAPTERS as NAMES
from roadwork.training.lora.apply import ADAPTERS, TOTAL_STEPS, adapt_network

TINY_VIT = (
    "model.name=vit",
    "model.config={hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2}",
    "model.config.patch_size=8",
)


def adapt(adapter, *overrides):
    """The network with the adapter of a configuration with these overrides."""
    cfg = load_config(CHECKOUT / "configs" / "config.yaml", [*TINY_VIT, f"training.adapter={adapter}", *overrides])
    settings = to_settings(cfg)
    return adapt_network(build_model(settings.model, 32), settings.training)


def peft_config(adapter, *overrides):
    return adapt(adapter, *overrides).peft_config["default"]


def test_settings_and_builder_have_the_same_adapters():
    assert tuple(ADAPTERS) == tuple(name for name in NAMES if name != "none")


@pytest.mark.parametrize(
    ("adapter", "override", "attribute", "value"),
    [
        ("lora", "adapter_rank=3", "r", 3),
        ("lora", "adapter_alpha=5", "lora_alpha", 5.0),
        ("lora", "adapter_dropout=0.25", "lora_dropout", 0.25),
        ("lora", "adapter_targets=[q_proj,v_proj]", "target_modules", {"q_proj", "v_proj"}),
        ("dora", "adapter_rank=3", "r", 3),
        ("dora", "adapter_alpha=5", "lora_alpha", 5.0),
        ("adalora", "adapter_rank=3", "target_r", 3),
        ("adalora", "adapter_alpha=5", "lora_alpha", 5.0),
        ("adalora", "adapter_dropout=0.25", "lora_dropout", 0.25),
        ("adalora", "adalora_init_rank=20", "init_r", 20),
        ("adalora", "adalora_warmup=0.2", "tinit", round(0.2 * TOTAL_STEPS)),
        ("adalora", "adalora_final=0.4", "tfinal", round(0.4 * TOTAL_STEPS)),
        ("adalora", "adalora_orthogonality=0.1", "orth_reg_weight", 0.1),
        ("vera", "vera_rank=12", "r", 12),
        ("vera", "adapter_dropout=0.25", "vera_dropout", 0.25),
        ("ia3", "adapter_targets=[k_proj,v_proj,fc2]", "target_modules", {"k_proj", "v_proj", "fc2"}),
    ],
)
def test_each_setting_changes_the_peft_config(adapter, override, attribute, value):
    default = getattr(peft_config(adapter), attribute)
    changed = getattr(peft_config(adapter, f"training.{override}"), attribute)
    assert default != value
    assert (set(changed) if isinstance(value, set) else changed) == value


def test_targets_choose_the_adapted_layers():
    adapted = {
        name.rpartition(".")[2]
        for name, module in adapt("lora", "training.adapter_targets=[q_proj]").named_modules()
        if hasattr(module, "lora_A")
    }
    assert adapted == {"q_proj"}


@pytest.mark.parametrize(
    ("adapter", "overrides", "message"),
    [
        ("lora", ["adapter_targets=[no_such]"], r"training\.adapter_targets.*no_such"),
        ("lora", ["adapter_dropout=1.0"], r"training\.adapter_dropout.*1\.0.*below 1"),
        ("lora", ["adapter_alpha=0"], r"training\.adapter_alpha.*0.*above 0"),
        ("ia3", ["adapter_alpha=4"], r"training\.adapter_alpha.*4.*ia3"),
        ("adalora", ["adalora_init_rank=8"], r"adalora_init_rank.*\b8\b.*adapter_rank.*\b8\b"),
        ("adalora", ["adalora_warmup=0.6", "adalora_final=0.5"], r"adalora_warmup.*0\.6.*adalora_final.*0\.5"),
    ],
)
def test_settings_that_the_adapter_ignores_are_errors(adapter, overrides, message):
    with pytest.raises(ConfigError, match=message):
        adapt(adapter, *(f"training.{override}" for override in overrides))
