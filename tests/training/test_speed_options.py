"""Each speed option takes effect, and none changes what is learned."""

import copy

import pytest
import torch
from torch import nn
from torch._inductor import config as inductor
from transformers import ViTConfig, ViTForImageClassification

from roadwork.core.errors import ConfigError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.models.build import build_model
from roadwork.models.cost import kept_bytes
from roadwork.preflight.dry_run import run_dry
from roadwork.settings import ModelSettings, TrainingSettings
from roadwork.training.devices import checkpoint_gradients, compile_network
from roadwork.training.lora.apply import adapt_network
from roadwork.training.module import RoadworkClassifier
from roadwork.training.trainers.factory import prepare_trainer

VIT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}
RESNET = {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 8, "layer_type": "basic"}


def tiny_vit():
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**VIT, image_size=32, num_labels=2)).train()


def images(count=4):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def fit(config):
    datamodule = NATIXDataModule(config)
    trainer = prepare_trainer(datamodule)
    trainer.fit(datamodule)
    return trainer


@pytest.fixture
def dynamo_alone(monkeypatch):
    """torch.compile without its slow C++ compiler: calls are captured, and run by PyTorch."""
    compiled = []
    compile_call, compile_function = nn.Module.compile, torch.compile

    def compile_module(module):
        def backend(graph, inputs):
            compiled.append(len(inputs))
            return graph

        compile_call(module, backend=backend)

    monkeypatch.setattr(nn.Module, "compile", compile_module)
    monkeypatch.setattr(torch, "compile", lambda called, backend="eager": compile_function(called, backend=backend))
    torch.compiler.reset()
    yield compiled
    torch.compiler.reset()


def test_compiled_run_equals_an_eager_run(tiny_config, dynamo_alone):
    """With EMA, validation and a last batch that is smaller."""
    ours = ("training.epochs=2", "training.clip_norm=1.0")
    plain = fit(tiny_config(*ours))
    assert dynamo_alone == []
    compiled = fit(tiny_config(*ours, "training.compile=true"))
    assert len(dynamo_alone) >= 3  # training, its last batch, validation
    weights = compiled.module.state_dict()
    assert list(weights) == list(plain.module.state_dict())
    torch.testing.assert_close(weights, plain.module.state_dict(), rtol=1e-4, atol=1e-5)
    assert compiled.ema_callback.n_updates == plain.ema_callback.n_updates


def test_dry_run_checks_the_eager_network_of_a_compiled_run(tiny_config, dynamo_alone):
    datamodule = NATIXDataModule(tiny_config("training.compile=true"))
    rows = run_dry(datamodule, prepare_trainer(datamodule))
    assert [row.wire for row in rows if not row.works] == []
    assert dynamo_alone == []


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own import
def test_missing_compiler_is_reported_before_the_first_step(monkeypatch):
    monkeypatch.setattr(inductor.cpp, "cxx", ("/nonexistent/g++",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)  # else what was once compiled needs no compiler
    torch.compiler.reset()
    with pytest.raises(ConfigError, match=r"(?s)cpu.*training\.compile=false"):
        compile_network(nn.Linear(2, 2), torch.device("cpu"))


@pytest.mark.parametrize("wanted", [True, False])
def test_channels_last_setting_takes_effect(wanted):
    network = build_model(ModelSettings(name="resnet", config=RESNET), 32)
    module = RoadworkClassifier(network, TrainingSettings(channels_last=wanted))
    seen = []
    network.register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True)
    module(images())
    weight = next(p for p in network.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1)
    for tensor in (seen[0], weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last) is wanted


@pytest.mark.parametrize(("attention", "expected"), [("auto", "sdpa"), ("sdpa", "sdpa"), ("eager", "eager")])
def test_attention_setting_takes_effect(attention, expected, monkeypatch):
    calls = []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or real(*a, **k)
    )
    network = build_model(ModelSettings(name="vit", config=VIT, attention=attention), 32)
    calls.clear()
    network(pixel_values=images())
    assert (len(calls) > 0) == (expected == "sdpa")


def test_both_attentions_give_the_same_logits(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    sdpa, eager = (
        build_model(ModelSettings(name=str(tmp_path), pretrained=True, attention=name), 32).eval()
        for name in ("sdpa", "eager")
    )
    torch.testing.assert_close(sdpa(pixel_values=images()).logits, eager(pixel_values=images()).logits)


@pytest.mark.parametrize("pretrained", [False, True])
def test_sdpa_on_an_unsupported_model_is_an_error(tmp_path, pretrained):
    if pretrained:
        build_model(ModelSettings(name="resnet", config=RESNET), 32).save_pretrained(tmp_path)
    settings = (
        ModelSettings(name=str(tmp_path), pretrained=True, attention="sdpa")
        if pretrained
        else ModelSettings(name="resnet", config=RESNET, attention="sdpa")
    )
    with pytest.raises(ConfigError, match=r"attention.*sdpa.*resnet.*auto, eager"):
        build_model(settings, 32)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_gradient_checkpointing_saves_memory(adapter):
    network = tiny_vit()
    twin = copy.deepcopy(network)
    checkpoint_gradients(twin)
    gradients, kept = [], []
    for one in (network, twin):
        torch.manual_seed(2)
        adapted = adapt_network(one, TrainingSettings(adapter=adapter, adapter_rank=2)).train()
        torch.manual_seed(3)  # LoRA's dropout
        kept.append(
            kept_bytes(lambda adapted=adapted: adapted(pixel_values=images(16)).logits.sum(), adapted.parameters())
        )
        torch.manual_seed(3)
        adapted(pixel_values=images(16)).logits.square().sum().backward()
        gradients.append({name: p.grad for name, p in adapted.named_parameters() if p.requires_grad})
    assert kept[1] < 0.6 * kept[0]
    assert all(gradient is not None for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0])


def test_unsupported_gradient_checkpointing_is_an_error(tiny_config):
    with pytest.raises(ConfigError, match=r"gradient_checkpointing.*true.*resnet"):
        prepare_trainer(NATIXDataModule(tiny_config("training.gradient_checkpointing=true")))
    with pytest.raises(ConfigError, match=r"gradient_checkpointing.*Linear"):
        checkpoint_gradients(nn.Linear(2, 2))
