"""A run that starts from another run has its weights, and none of its training rows held out."""

import json
import shutil

import pytest
import torch
from omegaconf import OmegaConf

from roadwork.config import load_config, load_yaml, to_settings
from roadwork.core.errors import ConfigError, DataError, SplitError
from roadwork.core.files import sha256_of
from roadwork.data.datamodule import NATIXDataModule
from roadwork.evaluation.evaluate import load_best_model
from roadwork.models.build import build_model
from roadwork.preflight.dry_run import run_dry
from roadwork.runs.run import Run
from roadwork.training.initialization import load_start, resolve_start
from roadwork.training.lora.apply import merge_adapter
from roadwork.training.trainers.base_trainer import BaseTrainer
from roadwork.training.trainers.factory import prepare_trainer

DINO = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 8}
AS_DINO = ("training.adapter=lora", "training.adapter_rank=2", "training.lr=0.02")


def with_dino(cfg, **fields):
    cfg.model.name, cfg.model.config = "dinov2", DINO | fields
    return cfg


def build(cfg):
    settings = to_settings(cfg)
    torch.manual_seed(1)
    return build_model(settings.model, settings.data.img_size)


def fit(cfg):
    return BaseTrainer(cfg, build(cfg)).fit(NATIXDataModule(cfg))


@pytest.fixture(scope="module")
def dino_run(tmp_path_factory, demo_root):
    """A run of a tiny DINOv2 with LoRA."""
    overrides = (f"data.root={demo_root}", f"output_dir={tmp_path_factory.mktemp('start')}", "training.epochs=1")
    sizes = ("data.img_size=32", "data.dataloader.batch_size=16")
    return fit(with_dino(load_config("configs/config.yaml", [*overrides, *sizes, *AS_DINO])))


def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def logits_of(network):
    with torch.no_grad():
        return network.eval()(pixel_values=images()).logits


def test_starts_from_the_best_weights_with_merged_adapter(tiny_config, dino_run, caplog):
    best = load_best_model(dino_run, to_settings(load_yaml(dino_run / "config.yaml")))
    expected = logits_of(best)
    cfg = with_dino(tiny_config(f"training.start_from={dino_run}"))
    network = build(cfg)
    assert (logits_of(network) - expected).abs().max() > 1e-3
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    before = torch.get_rng_state()
    with caplog.at_level("INFO", logger="roadwork"):
        load_start(network, to_settings(cfg))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(logits_of(network), expected, rtol=0, atol=1e-5)
    assert [name for name, p in network.named_parameters() if p.requires_grad] == trained
    assert f"{dino_run}/checkpoints/best.ckpt" in caplog.text
    merged = merge_adapter(best).state_dict()
    assert all(torch.equal(value, merged[name]) for name, value in network.state_dict().items())


def test_run_records_its_start_and_evaluates_without_it(tiny_config, dino_run):
    cfg = with_dino(tiny_config(f"training.start_from={dino_run}", "training.lr=1e-7", "training.adapter=ia3"))
    folder = fit(cfg)
    entry = Run(folder).read_manifest()["start_from"]
    assert entry["run"] == str(dino_run)
    assert entry["checkpoint_sha256"] == sha256_of(dino_run / "checkpoints/best.ckpt")
    parent = load_best_model(dino_run, to_settings(load_yaml(dino_run / "config.yaml")))
    child = load_best_model(folder, to_settings(load_yaml(folder / "config.yaml")))
    torch.testing.assert_close(logits_of(child), logits_of(parent), rtol=0, atol=1e-3)
    # a third run starts from the second; a resumed run keeps its start
    third = with_dino(tiny_config(f"training.start_from={folder}", "training.adapter=lora"))
    network = build(third)
    load_start(network, to_settings(third))
    torch.testing.assert_close(logits_of(network), logits_of(child), rtol=0, atol=1e-4)
    cfg.training.epochs = 2
    BaseTrainer(cfg, build(cfg)).fit(NATIXDataModule(cfg), folder)
    assert Run(folder).read_manifest()["start_from"] == entry
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_latest_link_is_resolved_at_the_start(tiny_config, tiny_run):
    cfg = tiny_config(f"training.start_from={tiny_run.parent / 'latest'}")
    assert BaseTrainer(cfg, build(cfg)).cfg.training.start_from == str(tiny_run.parent / tiny_run.name)
    assert cfg.training.start_from.endswith("latest")
    assert resolve_start(None) is None
    assert resolve_start(str(tiny_run)) == str(tiny_run)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 4}, "num_attention_heads.*2.*4"),  # the weights have the same shapes
        ({"hidden_size": 32}, "hidden_size.*16.*32"),
        ({"num_hidden_layers": 1}, "num_hidden_layers.*2.*1"),
    ],
)
def test_another_network_is_an_error(tiny_config, dino_run, fields, message):
    cfg = with_dino(tiny_config(f"training.start_from={dino_run}"), **fields)
    with pytest.raises(ConfigError, match=message):
        load_start(build(cfg), to_settings(cfg))


def test_another_model_family_is_an_error(tiny_config, dino_run):
    cfg = tiny_config(f"training.start_from={dino_run}")
    with pytest.raises(ConfigError, match=r"model_type.*'dinov2'.*'resnet'.*model\."):
        load_start(build(cfg), to_settings(cfg))


def test_users_own_network_is_compared_by_weights(tiny_config, dino_run):
    cfg = tiny_config(f"training.start_from={dino_run}")
    with pytest.raises(ConfigError, match="Linear"):
        load_start(torch.nn.Linear(2, 2), to_settings(cfg))


def test_position_embeddings_are_interpolated(tiny_config, dino_run):
    cfg = with_dino(tiny_config(f"training.start_from={dino_run}", "data.img_size=48"))
    network = build(cfg)
    load_start(network, to_settings(cfg))
    start = merge_adapter(load_best_model(dino_run, to_settings(load_yaml(dino_run / "config.yaml"))))
    wanted = start.dinov2.embeddings.interpolate_pos_encoding(torch.empty(1, 0, 16), 48, 48)
    positions = network.dinov2.embeddings.position_embeddings
    assert positions.shape[1] == 37 == wanted.shape[1]
    torch.testing.assert_close(positions, wanted)
    assert torch.equal(network.classifier.weight, start.classifier.weight)


def test_unfinished_or_missing_run_is_an_error(tiny_config, tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    cfg = tiny_config(f"training.start_from={tmp_path / 'run'}")
    network = build(cfg)
    (tmp_path / "run/checkpoints/best.ckpt").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"damaged"):
        load_start(network, to_settings(cfg))
    (tmp_path / "run/checkpoints/best.ckpt").unlink()
    with pytest.raises(DataError, match="first epoch"):
        load_start(network, to_settings(cfg))
    with pytest.raises(DataError, match="run folder"):
        load_start(network, to_settings(tiny_config("training.start_from=nowhere")))


@pytest.mark.parametrize("generations", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_evaluating_training_rows_of_a_parent_run_is_an_error(tiny_config, tiny_run, tmp_path, generations):
    parent = tmp_path / "parent"
    shutil.copytree(tiny_run, parent)
    splits = json.loads((parent / "splits.json").read_text())
    leaked = splits["splits"]["val_test"][:3]
    splits["splits"]["train"] += leaked
    (parent / "splits.json").write_text(json.dumps(splits))
    if generations == 2:
        shutil.copytree(tiny_run, tmp_path / "child")
        cfg = load_yaml(parent / "config.yaml")
        cfg.training.start_from = str(parent)
        OmegaConf.save(cfg, tmp_path / "child/config.yaml")
    start = parent if generations == 1 else tmp_path / "child"
    cfg = tiny_config(f"training.start_from={start}", f"data.splits_file={tiny_run / 'splits.json'}")
    message = rf"{parent}.*\b3 of .*{leaked[0]} \(val_test\)"
    datamodule = NATIXDataModule(cfg)
    with pytest.raises(SplitError, match=message):
        run_dry(datamodule, prepare_trainer(datamodule))
    with pytest.raises(SplitError, match=message):
        prepare_trainer(datamodule).fit(datamodule)
    assert not (tmp_path / "outputs").exists()
