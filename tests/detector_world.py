"""A tiny run, and tiny exported detectors, for tests of what comes after training."""

import json
from pathlib import Path

import torch
from fixtures.config import CHECKOUT, TINY_MODEL

from roadwork.calibration.calibrate import CalibrationOptions
from roadwork.calibration.run import calibrate_run
from roadwork.config import load_config, to_settings
from roadwork.data.datamodule import NATIXDataModule
from roadwork.detector.folding import fold_calibration
from roadwork.detector.format import ExportFacts, Preprocessing
from roadwork.evaluation.evaluate import evaluate_run
from roadwork.models.build import build_model
from roadwork.models.processor import IMAGENET_STATISTICS, PROCESSOR_FILE
from roadwork.settings import ModelSettings
from roadwork.training.trainers.base_trainer import BaseTrainer

SIZE = 32
FACTS = ExportFacts(temperature=1.3, threshold=0.45, prior=0.5, abstain_low=0.44, abstain_high=0.46)
_LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
# One tiny network of each family that the StreetVision consumer can load and roadwork is tested with.
TINY_NETWORKS = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "vit": {**_LAYERS, "intermediate_size": 32, "patch_size": 8},
    "dinov2": {**_LAYERS, "mlp_ratio": 2, "patch_size": 8},
    "convnextv2": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
}
# And of the other families that roadwork trains.
ALL_NETWORKS = TINY_NETWORKS | {
    "dinov2_with_registers": {**_LAYERS, "mlp_ratio": 2, "patch_size": 8, "num_register_tokens": 2},
    "dinov3_vit": {**_LAYERS, "intermediate_size": 32, "patch_size": 8, "num_register_tokens": 2},
    "dinov3_convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "layer_scale_init_value": 0.1},
    "siglip": {
        "vision_config": {**_LAYERS, "intermediate_size": 32, "patch_size": 8},
        "text_config": {**_LAYERS, "intermediate_size": 32, "vocab_size": 50_000},
    },
    "siglip2": {
        "vision_config": {**_LAYERS, "intermediate_size": 32, "patch_size": 8, "num_patches": 9},
        "text_config": {**_LAYERS, "intermediate_size": 32, "vocab_size": 50_000},
    },
    "swinv2": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    "hiera": {
        "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "num_query_pool": 1, "masked_unit_size": [4, 4],
    },
}  # fmt: skip


def make_run(folder: Path, demo_root: Path, *overrides: str) -> Path:
    """A run's folder below `folder`: trained for an epoch on tiny demo scenes, evaluated and calibrated."""
    cfg = load_config(
        CHECKOUT / "configs" / "config.yaml",
        [*TINY_MODEL, f"data.root={demo_root}", f"output_dir={folder}", "training.epochs=1", *overrides],
    )
    settings = to_settings(cfg)
    torch.manual_seed(0)
    run = BaseTrainer(cfg, build_model(settings.model, settings.data.img_size)).fit(NATIXDataModule(cfg))
    evaluate_run(run)
    calibrate_run(run, CalibrationOptions())
    return run


def make_model_folder(folder: Path, model_type: str = "resnet", facts: ExportFacts = FACTS, seed: int = 0) -> Path:
    """An exported folder of an untrained network whose probabilities are spread around the threshold."""
    torch.manual_seed(seed)
    model = ModelSettings(name=model_type, config=TINY_NETWORKS[model_type])
    network = build_model(model, SIZE).eval()
    fold_calibration(network, facts.temperature, facts.threshold)
    network.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"roadwork": facts.as_config(), "problem_type": None}))
    (folder / PROCESSOR_FILE).write_text(json.dumps(Preprocessing(SIZE, IMAGENET_STATISTICS).as_config()))
    return folder
