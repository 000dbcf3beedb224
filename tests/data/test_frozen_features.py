"""Frozen features equal the head's input, and are computed once per image version."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from roadwork.config import to_settings
from roadwork.core.errors import DataError
from roadwork.data import features
from roadwork.data.dataset import ImageStore, UnreadableLedger
from roadwork.data.features import Features, compute_features
from roadwork.data.source import read_dataset
from roadwork.models.build import build_model
from roadwork.models.processor import image_statistics
from roadwork.settings import ModelSettings, Settings


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROADWORK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve small photos in one folder per class."""
    root = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for number in range(12):
        path = root / ("Roadwork" if number % 2 else "None") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(40, 40, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture
def settings(tiny_config, photos: Path) -> Settings:
    return to_settings(tiny_config(f"data.root={photos}"))


def build(settings: Settings):
    with torch.random.fork_rng():
        torch.manual_seed(settings.training.seed)
        return build_model(settings.model, settings.data.img_size)


def compute(settings: Settings, rows: np.ndarray | None = None, network=None) -> Features:
    table, source = read_dataset(settings.data)
    rows = np.arange(len(table)) if rows is None else rows
    ledger = UnreadableLedger(table, settings.data.max_unreadable)
    return compute_features(network or build(settings), settings, ledger, source, rows)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows whose features are computed, not read from the cache."""
    rows: list[int] = []
    run = features._run_backbone

    def record(*arguments):
        for row, values in run(*arguments):
            rows.append(row)
            yield row, values

    monkeypatch.setattr(features, "_run_backbone", record)
    return rows


@pytest.mark.parametrize(
    ("name", "config", "size"),
    [
        ("resnet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}, 16),
        ("vit", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}, 8),
        ("dinov2", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 16}, 16),
        ("convnextv2", {"hidden_sizes": [4, 4, 4, 6], "depths": [1, 1, 1, 1]}, 6),
    ],
)
def test_features_equal_the_head_input(settings, name, config, size):
    """The network's own head on the features gives its logits for the photos."""
    settings.model = ModelSettings(name=name, config=config)
    network = build(settings)
    found = compute(settings, network=network)
    assert found.values.shape == (12, size)
    store = ImageStore(read_dataset(settings.data)[1], 32)
    statistics = image_statistics(settings.model)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (statistics.mean, statistics.std))
    images = torch.stack([(store.get(row) / 255 - mean) / std for row in range(12)])
    network.eval()
    with torch.no_grad():
        logits = network(pixel_values=images).logits
        torch.testing.assert_close(network.classifier(torch.from_numpy(found.values)), logits)


def test_network_is_unchanged(settings):
    network = build(settings)
    network.resnet.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    compute(settings, network=network)
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert network.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
    assert all(not tensor.is_inference() for tensor in network.state_dict().values())


def test_global_random_state_is_unchanged(settings):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    compute(settings)
    assert torch.equal(torch.rand(4), expected)


def test_rows_are_looked_up_in_any_order():
    found = Features(np.array([5, 2, 9]), np.array([[50.0], [20.0], [90.0]], dtype=np.float32), "")
    np.testing.assert_array_equal(found.of(np.array([9, 5, 2, 9]))[:, 0], [90, 50, 20, 90])


def test_features_are_computed_once(settings, computed):
    first = compute(settings)
    assert sorted(computed) == list(range(12))
    again = compute(settings)
    assert len(computed) == 12
    np.testing.assert_array_equal(first.values, again.values)
    assert first.values.dtype == np.float32
    assert first.values.shape == (12, 16)
    assert first.backbone == again.backbone


def test_only_the_rows_asked_for_are_opened(settings, photos, computed):
    compute(settings, np.array([3, 5]))
    assert computed == [3, 5]
    part = compute(settings, np.array([1, 3, 5]))
    assert computed == [3, 5, 1]
    np.testing.assert_array_equal(part.rows, [1, 3, 5])
    np.testing.assert_allclose(part.values, compute(settings).values[[1, 3, 5]], rtol=1e-4, atol=1e-5)


def test_changed_image_is_computed_again_and_logged(settings, photos, computed, caplog):
    before = compute(settings)
    path = min(photos.rglob("*.png"))
    Image.new("RGB", (40, 40), "red").save(path)
    os.utime(path, ns=(1, 1))
    computed.clear()
    with caplog.at_level("INFO", logger="roadwork"):
        after = compute(settings)
    assert len(computed) == 1
    assert "1 images" in caplog.text
    assert ((before.values != after.values).any(axis=1) == (np.arange(12) == computed[0])).all()


def test_features_depend_on_the_reader_version(settings, computed, monkeypatch):
    first = compute(settings)
    monkeypatch.setattr(features, "READER_VERSION", 99)
    assert compute(settings).backbone != first.backbone
    assert len(computed) == 24


@pytest.mark.parametrize("override", ["data.img_size=64", "training.seed=1"])
def test_features_depend_on_the_backbone(settings, tiny_config, photos, computed, override):
    first = compute(settings)
    other = compute(to_settings(tiny_config(f"data.root={photos}", override)))
    assert len(computed) == 24
    assert other.backbone != first.backbone
    compute(settings)
    assert len(computed) == 24


def test_interrupted_computation_resumes(settings, photos, monkeypatch):
    settings.data.dataloader.batch_size = 4
    run = features._run_backbone

    def interrupt(*arguments):
        for number, item in enumerate(run(*arguments)):
            if number == 8:
                raise KeyboardInterrupt
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(features, "_run_backbone", interrupt)
        with pytest.raises(KeyboardInterrupt):
            compute(settings)
    rows = []
    monkeypatch.setattr(
        features, "_run_backbone", lambda *a: ((row, values) for row, values in run(*a) if not rows.append(row))
    )
    assert len(compute(settings).rows) == 12
    assert len(rows) == 4


def test_damaged_cache_is_computed_again(settings, tmp_path, caplog):
    first = compute(settings)
    (path,) = (tmp_path / "cache" / "features").iterdir()
    path.write_bytes(b"PK\x03\x04 cut off")
    second = compute(settings)
    np.testing.assert_array_equal(first.values, second.values)
    assert "cannot be read" in caplog.text


def test_unreadable_images_are_left_out_or_refused(settings, photos):
    path = min(photos.rglob("*.png"))
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match="1 of 12 images"):
        compute(settings)
    settings.data.max_unreadable = 0.1
    assert len(compute(settings).rows) == 11
