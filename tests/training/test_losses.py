"""The losses match torch's, torchvision's formula in a plain loop, and finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, WeightedRandomSampler

from roadwork.core.errors import DataError, WiringError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.preflight.dry_run import run_dry
from roadwork.settings import TrainingSettings
from roadwork.training import module as module_module
from roadwork.training.module import RoadworkClassifier, balancing_weights, focal_loss, training_loss
from roadwork.training.trainers.factory import prepare_trainer

SMOOTHINGS = [0.0, 0.05, 0.4]
WEIGHTS = torch.tensor([0.8, 1.3])


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(17, 2, generator=generator)
    soft = torch.softmax(2 * torch.randn(17, 2, generator=generator), dim=1)
    return logits, torch.arange(17) % 2, soft


def settings(loss, smoothing=0.0, gamma=2.0):
    return TrainingSettings(loss=loss, label_smoothing=smoothing, focal_gamma=gamma)


def torchvision_focal(logits, labels, gamma):
    """torchvision.ops.sigmoid_focal_loss (alpha=-1) of the difference of two logits, in plain Python."""
    total = 0.0
    for (none, roadwork), label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = 1 / (1 + math.exp(none - roadwork))
        p_t = p * label + (1 - p) * (1 - label)
        total += -math.log(p_t) * (1 - p_t) ** gamma
    return total / len(logits)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_balanced_loss_equals_torch_weighted_cross_entropy(batch, smoothing):
    logits, hard, soft = batch
    ours = training_loss(logits, hard, settings("balanced", smoothing), WEIGHTS)
    theirs = F.cross_entropy(logits, hard, weight=WEIGHTS, label_smoothing=smoothing, reduction="sum") / len(logits)
    torch.testing.assert_close(ours, theirs)
    ours = training_loss(logits, soft, settings("balanced", smoothing), WEIGHTS)
    by_hand = -(WEIGHTS * (soft * (1 - smoothing) + smoothing / 2) * logits.log_softmax(1)).sum() / len(logits)
    torch.testing.assert_close(ours, by_hand)
    assert ours != pytest.approx(float(F.cross_entropy(logits, soft, label_smoothing=smoothing)), abs=1e-3)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_equals_torchvision_and_mixes_soft_labels(batch, gamma):
    logits, hard, soft = batch
    ours = training_loss(logits, hard, settings("focal", gamma=gamma))
    assert float(ours) == pytest.approx(torchvision_focal(logits, hard, gamma), rel=1e-5)
    mixed = sum(
        share * torchvision_focal(row[None], torch.tensor([label]), gamma)
        for row, shares in zip(logits, soft, strict=True)
        for label, share in enumerate(shares.tolist())
    ) / len(logits)
    assert float(training_loss(logits, soft, settings("focal", gamma=gamma))) == pytest.approx(mixed, rel=1e-5)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "balanced"])
def test_losses_reduce_to_cross_entropy(batch, loss, smoothing):
    logits, *both = batch
    for labels in both:
        ours = training_loss(logits, labels, settings(loss, smoothing, gamma=0.0), torch.ones(2))
        torch.testing.assert_close(ours, F.cross_entropy(logits, labels, label_smoothing=smoothing))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradient_of_the_focal_loss(batch, gamma):
    logits, _, soft = batch
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, soft.double(), gamma), logits)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_extreme_logits_have_finite_gradients(gamma):
    logits = torch.tensor([[90.0, -90.0], [-90.0, 90.0]], requires_grad=True)
    training_loss(logits, torch.tensor([0, 0]), settings("focal", gamma=gamma)).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[1].abs().max() > 0.4


def test_balanced_loss_without_weights_is_an_error(batch):
    with pytest.raises(WiringError, match=r"training\.loss.*weights"):
        training_loss(*batch[:2], settings("balanced"))


class Rows(list):
    labels = (0, 0, 0, 1)


def test_class_weights_follow_the_sampler():
    rows = Rows(range(4))
    of_the_table = balancing_weights(DataLoader(rows))
    torch.testing.assert_close(of_the_table, torch.tensor([1 / 1.5, 2.0]))
    sampler = WeightedRandomSampler([1.0, 1.0, 1.0, 9.0], 4)
    torch.testing.assert_close(balancing_weights(DataLoader(rows, sampler=sampler)), torch.tensor([2.0, 1 / 1.5]))
    with pytest.raises(DataError, match=r"None and Roadwork.*weight_brackets"):
        balancing_weights(DataLoader(rows, sampler=WeightedRandomSampler([1.0, 1.0, 1.0, 0.0], 4)))
    with pytest.raises(DataError, match="`labels`"):
        balancing_weights(DataLoader([1, 2]))


def table(cfg):
    datamodule = NATIXDataModule(cfg)
    return {row.wire: row for row in run_dry(datamodule, prepare_trainer(datamodule))}, datamodule


UNEVEN = "data.gps_sampling.weight_brackets=[[0,500,9],[500,inf,0.1]]"
slow = pytest.mark.slow


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.loss=balanced",),
        pytest.param(("training.loss=balanced", "data.gps_sampling.draw=iid"), marks=slow),
        pytest.param(("training.loss=focal", "training.precision=bf16-mixed"), marks=slow),
        pytest.param(("training.loss=focal", "data.augmentation.train.mode=none"), marks=slow),
    ],
)
def test_step_uses_the_configured_loss(tiny_config, caplog, overrides):
    with caplog.at_level("INFO", logger="roadwork"):
        rows, datamodule = table(tiny_config(*overrides, UNEVEN))
    assert [f"{row.wire}: {row.observed}" for row in rows.values() if not row.works] == []
    assert overrides[0].replace("training.loss=", "loss (") + ")" in rows
    if "balanced" in overrides[0]:
        drawn, labels = datamodule.train_sampler.weights, datamodule.datasets["train"].labels
        weights = [drawn.sum() / (2 * drawn[labels == label].sum()) for label in (0, 1)]
        assert abs(weights[0] - weights[1]) > 0.01
        assert f"None {weights[0]:.2f}, Roadwork {weights[1]:.2f}" in caplog.text


@pytest.mark.parametrize("fault", [pytest.param("loss", marks=slow), pytest.param("smoothing", marks=slow), "weights"])
def test_step_with_another_loss_is_detected(tiny_config, monkeypatch, fault):
    if fault == "weights":  # weights of another sampler
        monkeypatch.setattr(module_module, "balancing_weights", lambda loader: torch.tensor([0.6, 3.0]))
    else:
        other = TrainingSettings(loss="cross_entropy" if fault == "loss" else "balanced")
        other.label_smoothing = 0.05 if fault == "loss" else 0.3
        monkeypatch.setattr(module_module, "training_loss", lambda x, y, _, w: training_loss(x, y, other, w))
    rows, _ = table(tiny_config("training.loss=balanced", UNEVEN))
    assert {row.wire for row in rows.values() if not row.works} == {"loss (balanced)"}


def test_validation_uses_plain_cross_entropy(monkeypatch, batch):
    logits, labels, _ = batch
    module = RoadworkClassifier(nn.Module(), settings("balanced", 0.3))
    monkeypatch.setattr(RoadworkClassifier, "logits_of", lambda self, batch: logits)
    outputs = module.validation_step({"label": labels}, 0)
    torch.testing.assert_close(outputs["loss"], F.cross_entropy(logits, labels))
