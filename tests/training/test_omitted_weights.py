"""Checkpoints omit reproducible frozen weights, and load only with exactly these weights."""

import re
import shutil

import pytest
import torch
from fixtures.adapter_runs import adapter_config, make_pretrained, prepare, train
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from roadwork.config import to_settings
from roadwork.core.errors import DataError
from roadwork.evaluation.evaluate import load_best_model
from roadwork.training.checkpoints import fingerprint, load_weights, why_damaged
from roadwork.training.initialization import can_omit_frozen, find_omittable

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A pretrained folder, and the folder of a run with LoRA on it."""
    folder = tmp_path_factory.mktemp("trained")
    cfg = adapter_config(make_pretrained(folder / "pretrained", "vit"), "lora")
    train(prepare(cfg), folder / "run")
    shutil.copy(folder / "run" / "checkpoints" / "1.ckpt", folder / "run" / "checkpoints" / "best.ckpt")
    return folder


@pytest.fixture
def copied(trained, tmp_path):
    """A copy that a test may change, and its configuration."""
    shutil.copytree(trained, tmp_path / "copy")
    cfg = OmegaConf.load(tmp_path / "copy" / "run" / "config.yaml")
    cfg.model.name = str(tmp_path / "copy" / "pretrained")
    return tmp_path / "copy", cfg


def edit_checkpoint(path, change):
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)


def test_average_and_raw_weights_omit_frozen_weights(trained):
    path = trained / "run" / "checkpoints" / "1.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    left_out = {f"model.{name}" for name in checkpoint["left_out"]["names"]}
    assert len(left_out) > 30
    assert not left_out & (checkpoint["state_dict"].keys() | checkpoint["raw_state_dict"].keys())
    assert any("position_embeddings" in key for key in checkpoint["state_dict"])
    assert why_damaged(path) is None


def test_other_weights_with_the_same_name_are_an_error(copied):
    folder, cfg = copied
    file = folder / "pretrained" / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if re.search(r"(fc1|intermediate\.dense)\.weight", name))
    weights[name].view(-1)[0] += 1e-6
    save_file(weights, file, metadata={"format": "pt"})
    message = r"\d+ frozen weights.*model\.name="
    with pytest.raises(DataError, match=message):
        load_best_model(folder / "run", to_settings(cfg))
    with pytest.raises(DataError, match=message):
        train(prepare(cfg), folder / "run", resume_from=folder / "run" / "checkpoints" / "0.ckpt")


@pytest.mark.parametrize(
    "lost", ["lora_A", *(pytest.param(n, marks=pytest.mark.slow) for n in ("classifier", "position_embeddings"))]
)
def test_other_missing_weights_are_an_error(copied, lost):
    folder, cfg = copied
    path = folder / "run" / "checkpoints" / "0.ckpt"

    def lose(checkpoint):
        for weights in (checkpoint["state_dict"], checkpoint["raw_state_dict"]):
            for key in [key for key in weights if lost in key]:
                del weights[key]

    edit_checkpoint(path, lose)
    trainer = prepare(cfg)
    with pytest.raises(DataError, match=r"config\.yaml"):
        load_weights(trainer.module.model, path)
    with pytest.raises(RuntimeError, match=r"Missing key.*"):
        train(trainer, folder / "run", resume_from=path)


def test_weight_missing_from_the_folder_is_kept(copied):
    folder, cfg = copied
    file = folder / "pretrained" / "model.safetensors"
    weights = load_file(file)
    lost = next(name for name in weights if re.search(r"\.0\..*(fc1|intermediate\.dense)\.weight", name))
    del weights[lost]
    save_file(weights, file, metadata={"format": "pt"})
    before = set(torch.load(folder / "run" / "checkpoints" / "0.ckpt", weights_only=True)["left_out"]["names"])
    trainer = prepare(cfg)
    missed = before - set(trainer.module.omitted.names)
    assert len(missed) == 1
    assert "0.mlp.fc1.base_layer.weight" in missed.pop()
    train(trainer, folder / "run")
    shutil.copy(folder / "run" / "checkpoints" / "1.ckpt", folder / "run" / "checkpoints" / "best.ckpt")
    best = load_best_model(folder / "run", to_settings(cfg))
    assert all(torch.equal(value, best.get_parameter(name)) for name, value in trainer.ema_callback.shadow.items())


def test_manually_changed_weight_is_kept(copied):
    _, cfg = copied
    trainer = prepare(cfg)
    name = trainer.module.omitted.names[-1]
    with torch.no_grad():
        trainer.module.model.get_parameter(name).view(-1)[0] += 1
    changed = find_omittable(trainer.module.model, trainer.settings)
    assert set(trainer.module.omitted.names) - set(changed.names) == {name}


def test_check_draws_no_random_number(copied):
    _, cfg = copied
    trainer = prepare(cfg)
    state = torch.get_rng_state()
    assert find_omittable(trainer.module.model, trainer.settings) == trainer.module.omitted
    assert torch.equal(torch.get_rng_state(), state)


def test_random_weights_are_kept(trained):
    cfg = adapter_config(trained / "pretrained", "lora")
    cfg.model.name, cfg.model.pretrained = "resnet", False
    cfg.model.config = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    assert prepare(cfg).module.omitted is None


@pytest.mark.slow
def test_frozen_backbone_is_omitted(copied):
    folder, cfg = copied
    cfg = adapter_config(folder / "pretrained", "head")
    uninterrupted = train(prepare(cfg), folder / "head")
    saved = torch.load(folder / "head" / "checkpoints" / "0.ckpt", weights_only=True)
    held = {key for key in saved["state_dict"] if "position" not in key}
    assert held == {"model.classifier.weight", "model.classifier.bias"}
    resumed = train(prepare(cfg), folder / "head", resume_from=folder / "head" / "checkpoints" / "0.ckpt")
    assert all(
        torch.equal(value, uninterrupted.module.state_dict()[key]) for key, value in resumed.module.state_dict().items()
    )


def test_adapter_on_another_runs_weights(copied):
    """The frozen weights come from that run, whose checkpoint omits those of the pretrained folder."""
    folder, cfg = copied
    checkpoints = folder / "head" / "checkpoints"
    train(prepare(adapter_config(folder / "pretrained", "head")), folder / "head")
    shutil.copy(checkpoints / "1.ckpt", checkpoints / "best.ckpt")
    cfg = adapter_config(folder / "pretrained", "lora", f"training.start_from={folder / 'head'}")
    trainer = train(prepare(cfg), folder / "run")
    assert trainer.module.omitted.source == f"training.start_from={folder / 'head'}"
    shutil.copy(folder / "run" / "checkpoints" / "1.ckpt", folder / "run" / "checkpoints" / "best.ckpt")
    best = load_best_model(folder / "run", to_settings(cfg))
    assert all(torch.equal(value, best.get_parameter(name)) for name, value in trainer.ema_callback.shadow.items())
    edit_checkpoint(checkpoints / "best.ckpt", lambda saved: saved["state_dict"]["model.classifier.bias"].add_(1))
    with pytest.raises(DataError, match=r"frozen weights.*training\.start_from="):
        load_best_model(folder / "run", to_settings(cfg))


@pytest.mark.parametrize(("before", "expected"), [("none", True), ("lora", False)])
def test_start_with_merged_adapter_is_kept(copied, before, expected):
    """Merging is arithmetic; the weights of a run without an adapter are read unchanged."""
    folder, cfg = copied
    OmegaConf.update(cfg, "training.start_from", str(folder / "run"))
    OmegaConf.save({"training": {"adapter": before}}, folder / "run" / "config.yaml")
    assert can_omit_frozen(to_settings(cfg)) is expected


def test_fingerprint_covers_names_shapes_types_and_bytes():
    weights = {"a": torch.arange(24.0).view(2, 3, 2, 2), "b": torch.ones(2)}
    known = fingerprint(weights)
    assert fingerprint(dict(reversed(weights.items()))) == known
    assert fingerprint(weights | {"a": weights["a"].contiguous(memory_format=torch.channels_last)}) == known
    others = [
        weights | {"a": weights["a"].view(3, 2, 2, 2)},
        weights | {"a": weights["a"].bfloat16()},
        weights | {"b": -weights["b"]},
        {"a": weights["a"], "c": weights["b"]},
        {"a": weights["a"]},
    ]
    assert len({known, *map(fingerprint, others)}) == len(others) + 1
