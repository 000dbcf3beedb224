"""The networks that transformers alone does not know, made known to its loaders in this process."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForImageClassification

from roadwork.models.classifier import PooledClassifier, PooledConfig
from roadwork.models.ensemble import EnsembleConfig, EnsembleForImageClassification

# Classes of configuration and network; a folder of one of them is loaded by roadwork, and not by transformers alone.
OWN_NETWORKS = ((EnsembleConfig, EnsembleForImageClassification), (PooledConfig, PooledClassifier))


def register_own_networks() -> None:
    """Lets `AutoConfig` and `AutoModelForImageClassification` find them; called where a folder is loaded."""
    for config, network in OWN_NETWORKS:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForImageClassification.register(config, network, exist_ok=True)


def is_own(model_type: str) -> bool:
    """Whether transformers alone cannot load a network of this type."""
    return any(config.model_type == model_type for config, _ in OWN_NETWORKS)
