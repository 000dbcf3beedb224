"""Heads trained at once against the same heads trained one by one."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from roadwork.experiments.heads import Heads, HeadSettings, Phase, predict_held_out, train_heads

SETTINGS = HeadSettings(hidden=6, steps=20, batch_size=16, lr=0.02)


def make_data(n: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, size=(n, 5)).astype(np.float32)
    return features, (features[:, 0] > 3).astype(np.int64)


def draw(n_heads: int, n_steps: int = 20) -> np.ndarray:
    return np.random.default_rng(1).integers(60, size=(n_heads, n_steps, 16))


def test_heads_at_once_are_those_trained_alone():
    features, labels = make_data()
    training = [np.arange(60), np.arange(80), np.arange(20, 90)]
    batches = draw(3)
    together = train_heads(features, labels, training, [Phase(batches)], seeds=[4, 5, 6], settings=SETTINGS)
    for k in range(3):
        alone = train_heads(
            features, labels, [training[k]], [Phase(batches[k : k + 1])], seeds=[4 + k], settings=SETTINGS
        )
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(parameter[0], dict(together.named_parameters())[name][k])


def test_training_is_that_of_a_plain_network():
    features, labels = make_data()
    batches = draw(1)
    trained = train_heads(features, labels, [np.arange(60)], [Phase(batches)], seeds=[7], settings=SETTINGS)
    start = Heads(features[:60].mean(0)[None], features[:60].std(0)[None], [7], 6)
    plain = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.ReLU(), torch.nn.Linear(6, 1))
    with torch.no_grad():
        for layer, weight, bias in ((0, "hidden_weight", "hidden_bias"), (2, "last_weight", "last_bias")):
            plain[layer].weight.copy_(getattr(start, weight)[0].T)
            plain[layer].bias.copy_(getattr(start, bias)[0, 0])
    optimizer = torch.optim.AdamW(plain.parameters(), lr=SETTINGS.lr, weight_decay=SETTINGS.weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    inputs = torch.from_numpy((features - features[:60].mean(0)) / features[:60].std(0))
    for rows in torch.from_numpy(batches[0]):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(plain(inputs[rows])[:, 0], torch.from_numpy(labels)[rows].float()).backward()
        optimizer.step()
        scheduler.step()
    logits = trained(torch.from_numpy(features), 0)
    torch.testing.assert_close(logits, plain(inputs)[:, 0], rtol=1e-3, atol=1e-4)


def test_last_layer_phase_leaves_the_hidden_layer():
    features, labels = make_data()
    first = train_heads(features, labels, [np.arange(60)], [Phase(draw(1))], seeds=[0], settings=SETTINGS)
    phases = [Phase(draw(1)), Phase(draw(1), last_layer_only=True)]
    both = train_heads(features, labels, [np.arange(60)], phases, seeds=[0], settings=SETTINGS)
    assert torch.equal(first.hidden_weight, both.hidden_weight)
    assert torch.equal(first.hidden_bias, both.hidden_bias)
    assert not torch.equal(first.last_weight, both.last_weight)


def test_each_row_is_predicted_by_the_head_of_its_fold():
    features, _ = make_data()
    heads = Heads(np.zeros((2, 5)), np.ones((2, 5)), [1, 2], 6)
    folds = np.arange(90) % 2
    probabilities = predict_held_out(heads, features, folds)
    for fold in (0, 1):
        expected = torch.sigmoid(heads(torch.from_numpy(features[folds == fold]), fold)).detach().numpy()
        np.testing.assert_allclose(probabilities[folds == fold], expected, rtol=1e-5)


def test_a_constant_feature_does_no_harm():
    features, labels = make_data()
    features[:, 1] = 4
    heads = train_heads(features, labels, [np.arange(60)], [Phase(draw(1))], seeds=[0], settings=SETTINGS)
    assert np.isfinite(predict_held_out(heads, features, np.zeros(90, dtype=int))).all()


def test_thread_count_is_restored():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        features, labels = make_data()
        train_heads(features, labels, [np.arange(60)], [Phase(draw(1))], seeds=[0], settings=SETTINGS)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
