"""The schedule matches transformers', and the groups match real networks' parameter names."""

import pytest
import torch
from torch import nn
from transformers import (
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    get_cosine_schedule_with_warmup,
)

from roadwork.core.errors import ConfigError, WiringError
from roadwork.training.optim import build_optimizer, parameter_groups, use_fused, warmup_cosine


def tiny_vit():
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
        )
    )


def names_of(model, group):
    identities = {id(p) for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in identities}


def test_only_weight_matrices_of_a_vit_are_decayed():
    model = tiny_vit()
    decayed, plain = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    matrices = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert names_of(model, decayed) == matrices
    assert names_of(model, plain) == {name for name, _ in model.named_parameters()} - matrices
    assert any("position_embeddings" in name for name in names_of(model, plain))


def test_convnext_scales_are_not_decayed():
    model = ConvNextV2ForImageClassification(ConvNextV2Config(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1]))
    decayed, plain = parameter_groups(model, 0.05)
    assert any(name.endswith("grn.weight") for name in names_of(model, plain))
    assert any(name.endswith("dwconv.weight") for name in names_of(model, decayed))


def test_frozen_parameters_are_in_no_group():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].requires_grad_(requires_grad=False)
    groups = build_optimizer(model, lr=0.1, weight_decay=0.2).param_groups
    assert [(len(g["params"]), g["weight_decay"], g["lr"]) for g in groups] == [(1, 0.2, 0.1), (1, 0.0, 0.1)]
    model[1].weight.requires_grad_(requires_grad=False)
    assert [g["weight_decay"] for g in parameter_groups(model, 0.2)] == [0.0]
    with pytest.raises(WiringError, match="requires a gradient"):
        parameter_groups(model.requires_grad_(requires_grad=False), 0.2)


def rates(schedule, steps):
    seen = []
    for _ in range(steps):
        seen.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize(("total_steps", "warmup_share"), [(100, 0.05), (40, 0.0), (7, 0.5), (10, 1.0), (1, 0.05)])
def test_schedule_equals_transformers_one_step_ahead(total_steps, warmup_share):
    warmup_steps = round(total_steps * warmup_share)
    ours = warmup_cosine(build_optimizer(nn.Linear(2, 2), 0.5, 0.0), total_steps, warmup_share)
    theirs = get_cosine_schedule_with_warmup(build_optimizer(nn.Linear(2, 2), 0.5, 0.0), warmup_steps, total_steps + 1)
    seen = rates(ours, total_steps)
    assert seen == pytest.approx(rates(theirs, total_steps + 1)[1:], abs=1e-12)
    assert min(seen) > 0
    assert max(seen) <= 0.5
    if warmup_steps:
        assert seen[warmup_steps - 1] == 0.5


def test_learning_rate_ends_near_zero():
    schedule = warmup_cosine(build_optimizer(nn.Linear(2, 2), 1.0, 0.0), 200, 0.1)
    seen = rates(schedule, 205)
    assert 0 < seen[199] < 1e-3
    assert seen[200:] == pytest.approx([0.0] * 5)


def test_schedule_state_loads_without_pickle(tmp_path):
    schedule = warmup_cosine(build_optimizer(nn.Linear(2, 2), 1.0, 0.0), 20, 0.1)
    rates(schedule, 5)
    torch.save(schedule.state_dict(), tmp_path / "state.pt")
    resumed = warmup_cosine(build_optimizer(nn.Linear(2, 2), 1.0, 0.0), 20, 0.1)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert rates(resumed, 5) == rates(schedule, 5)


@pytest.mark.parametrize(
    ("total_steps", "share", "message"), [(0, 0.1, r"\b0 optimizer steps"), (5, 1.5, r"warmup.*1\.5")]
)
def test_impossible_schedule_is_an_error(total_steps, share, message):
    with pytest.raises(ConfigError, match=message):
        warmup_cosine(build_optimizer(nn.Linear(2, 2), 1.0, 0.0), total_steps, share)


def train(model, optimizer, steps):
    for step in range(steps):
        inputs = torch.rand(8, 4, 5, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(inputs.contiguous(memory_format=torch.channels_last)).square().sum().backward()
        optimizer.step()


def convolution():
    torch.manual_seed(0)
    return nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)


def test_fused_optimizer_gives_the_same_weights():
    weights = []
    for fused in (True, False):
        model = convolution()
        optimizer = build_optimizer(model, 0.1, 0.05, fused=fused)
        assert {bool(group["fused"]) for group in optimizer.param_groups} == {fused}
        train(model, optimizer, 10)
        weights.append(model.state_dict())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("before", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("fused", [True, False])
def test_fused_optimizer_resumes_with_another_memory_layout(tmp_path, before, fused):
    """The fused CPU kernel reads weights and averages in memory order and ignores their strides."""
    model = convolution().to(memory_format=before)
    first = build_optimizer(model, 0.1, 0.05, fused=fused)
    train(model, first, 1)
    torch.save([model.state_dict(), first.state_dict()], tmp_path / "state.pt")
    resumed = []
    for now_fused in (True, False):
        weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
        model = convolution()
        model.load_state_dict(weights)
        optimizer = build_optimizer(model, 0.1, 0.05, fused=now_fused)
        optimizer.load_state_dict(state)
        assert {bool(group["fused"]) for group in optimizer.param_groups} == {now_fused}
        train(model, optimizer, 2)
        resumed.append(model.state_dict())
    torch.testing.assert_close(*resumed, rtol=1e-5, atol=1e-6)


WEIGHTS = [torch.zeros(2)]


@pytest.mark.parametrize(
    ("wanted", "parameters", "precision", "expected"),
    [
        (None, WEIGHTS, "32-true", True),
        (None, WEIGHTS, "bf16-mixed", True),
        (True, WEIGHTS, "32-true", True),
        (False, WEIGHTS, "32-true", False),
        (None, WEIGHTS, "16-mixed", False),  # Lightning refuses to clip before a fused step undoes the loss scale
        (None, [*WEIGHTS, torch.zeros(2, device="meta")], "32-true", False),
        (None, [torch.zeros(2, dtype=torch.complex64)], "32-true", False),
    ],
)
def test_optimizer_is_fused_if_available(wanted, parameters, precision, expected):
    assert use_fused(wanted, parameters, precision) is expected


@pytest.mark.parametrize(
    ("parameters", "precision", "reason"),
    [(WEIGHTS, "16-mixed", "16-mixed, whose loss scale"), ([torch.zeros(2, device="meta")], "32-true", "on meta")],
)
def test_unavailable_fused_optimizer_is_an_error(parameters, precision, reason):
    with pytest.raises(ConfigError, match=rf"fused_optimizer.*{reason}.*false"):
        use_fused(True, parameters, precision)
