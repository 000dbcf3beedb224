"""Runs that were never trained, made in no time, for tests of what an export does with them."""

from pathlib import Path

import torch
from detector_world import SIZE, TINY_NETWORKS
from fixtures.config import CHECKOUT
from omegaconf import OmegaConf

from roadwork.config import load_config, to_settings
from roadwork.models.build import build_model
from roadwork.training.lora.apply import adapt_network

NETWORKS = TINY_NETWORKS | {
    "siglip": {
        "vision_config": {
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
            "patch_size": 8,
        },
        "text_config": {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
            "vocab_size": 50_000,
        },
    }
}  # fmt: skip


def make_untrained_run(folder: Path, model_type: str = "resnet", adapter: str = "none", *overrides: str) -> Path:
    """A run's folder with a best checkpoint of random weights, an adapter's among them, and nothing else."""
    cfg = load_config(
        CHECKOUT / "configs" / "config.yaml",
        [f"model.name={model_type}", f"data.img_size={SIZE}", f"training.adapter={adapter}", *overrides],
    )
    cfg.model.config = {} if cfg.model.pretrained else NETWORKS[model_type]
    settings = to_settings(cfg)
    torch.manual_seed(0)
    network = build_model(settings.model, SIZE)
    network = adapt_network(network, settings.training)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:  # an adapter starts as one that changes nothing, and would merge unseen
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    OmegaConf.save(cfg, folder / "config.yaml")
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state}, checkpoints / "best.ckpt")
    return folder
