"""The catalogue of backbones: licence, cost, and whether the weights are on this machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml  # type: ignore[import-untyped]  # it ships no types
from huggingface_hub import try_to_load_from_cache
from omegaconf import OmegaConf
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from roadwork.config import config_folders, load_config, to_settings
from roadwork.export.consumer import STREETVISION_MODEL_TYPES
from roadwork.models.architecture import read_config
from roadwork.models.classifier import as_own_class, family_of
from roadwork.models.cost import build_without_weights, forward_flops, prediction_bytes, training_bytes
from roadwork.models.head import freeze_backbone
from roadwork.settings import ModelSettings, Settings
from roadwork.training.devices import checkpoint_gradients
from roadwork.training.lora.apply import adapt_network

UNKNOWN, NO_WEIGHTS = "unknown", "no weights"

# The `license` of each model card on huggingface.co, as known in November 2026; not all were checked again. The card
# itself is binding. If the authors state another licence elsewhere, both are listed.
_APACHE = "Apache 2.0"
_DINOV3 = "DINOv3 License (gated)"  # ai.meta.com/resources/models-and-libraries/dinov3-license
_CONVNEXTV2 = "CC BY-NC (card: Apache 2.0)"  # the first: README of github.com/facebookresearch/ConvNeXt-V2
_HIERA = "CC BY-NC 4.0"
LICENCES = {
    "WinKawaks/vit-small-patch16-224": _APACHE,
    "google/vit-base-patch16-224": _APACHE,
    "google/vit-base-patch16-224-in21k": _APACHE,
    "google/vit-large-patch16-224": _APACHE,
    "facebook/dinov2-small": _APACHE,
    "facebook/dinov2-base": _APACHE,
    "facebook/dinov2-large": _APACHE,
    "facebook/dinov2-giant": _APACHE,
    "facebook/dinov2-with-registers-small": _APACHE,
    "facebook/dinov2-with-registers-base": _APACHE,
    "facebook/dinov2-with-registers-large": _APACHE,
    "facebook/dinov2-with-registers-giant": _APACHE,
    "facebook/dinov3-vits16-pretrain-lvd1689m": _DINOV3,
    "facebook/dinov3-vitb16-pretrain-lvd1689m": _DINOV3,
    "facebook/dinov3-vitl16-pretrain-lvd1689m": _DINOV3,
    "facebook/dinov3-convnext-tiny-pretrain-lvd1689m": _DINOV3,
    "facebook/dinov3-convnext-small-pretrain-lvd1689m": _DINOV3,
    "facebook/dinov3-convnext-base-pretrain-lvd1689m": _DINOV3,
    "google/siglip-base-patch16-224": _APACHE,
    "google/siglip2-base-patch16-224": _APACHE,
    "google/siglip2-large-patch16-256": _APACHE,
    "facebook/convnextv2-tiny-1k-224": _CONVNEXTV2,
    "facebook/convnextv2-tiny-22k-224": _CONVNEXTV2,
    "facebook/convnextv2-base-22k-224": _CONVNEXTV2,
    "facebook/convnextv2-large-22k-224": _CONVNEXTV2,
    "microsoft/resnet-18": _APACHE,
    "microsoft/resnet-50": _APACHE,
    "microsoft/swinv2-tiny-patch4-window8-256": _APACHE,
    "microsoft/swinv2-base-patch4-window8-256": _APACHE,
    "facebook/hiera-tiny-224-in1k-hf": _HIERA,
}
CONFIGURED = "(configured)"
RANDOM, HERE, ABSENT = "random", "here", "not here"

# Used for data.dataloader.batch_size=auto, which needs the device.
BATCH_FOR_AUTO = 32


def licence_of(model: ModelSettings) -> str:
    """The licence of a model's weights, from a folder's model card or from `LICENCES`; else `unknown`."""
    if not model.pretrained:
        return NO_WEIGHTS
    folder = Path(model.name)
    return _of_card(folder / "README.md") if folder.is_dir() else LICENCES.get(model.name, UNKNOWN)


def _of_card(card: Path) -> str:
    """`license_name`, else `license`, from the YAML front matter of a model card."""
    try:
        opening, front_matter, *_ = card.read_text(encoding="utf-8").split("---\n", 2)
        fields = yaml.safe_load(front_matter)
    except (OSError, ValueError, yaml.YAMLError):
        return UNKNOWN
    if opening.strip() or not isinstance(fields, dict):
        return UNKNOWN
    return str(fields.get("license_name") or fields.get("license") or UNKNOWN)


@dataclass(frozen=True)
class BackboneCost:
    """The cost of a network.

    Attributes:
        parameters: number of parameters, with the head and without an adapter.
        trainable: number of trained parameters, with the adapter's.
        forward_flops: FLOPs of one image's forward pass; a multiply-add is two.
        training_bytes: memory of a training step in float32, as `cost.training_bytes` estimates it.
        prediction_bytes: memory of a forward pass in float32, as `cost.prediction_bytes` estimates it.
    """

    parameters: int
    trainable: int
    forward_flops: int
    training_bytes: int
    prediction_bytes: int


@dataclass(frozen=True)
class Backbone:
    """A row of the catalogue.

    Attributes:
        name: the value for `model=...`; `(configured)` for a configured network that has no file.
        source: its hub name, folder or model type.
        configured: whether the configuration trains it.
        family: transformers' model type; None if it cannot be built.
        cost: parameters, FLOPs and memory; None if it cannot be built.
        licence: the licence of its weights.
        weights: `random`, `here` (a folder, or the hub's local cache), or `not here`.
        streetvision: whether the StreetVision consumer can load its export; None if it cannot be built.
        problem: why it cannot be built; else None.
    """

    name: str
    source: str
    configured: bool
    family: str | None
    cost: BackboneCost | None
    licence: str
    weights: str
    streetvision: bool | None
    problem: str | None


def list_backbones(config: str | Path, overrides: Sequence[str] = ()) -> tuple[Settings, list[Backbone]]:
    """The settings, and a row for each file of `configs/model/` and for a configured network without a file.

    Networks are built on the meta device: no weight is read. The hub is asked only for a configuration that is neither
    in the file nor on this machine.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    settings = to_settings(load_config(config, overrides))
    offered = dict(_offered())
    with _silence():
        rows = [
            _describe(name, replace(settings, model=model), configured=model == settings.model)
            for name, model in offered.items()
        ]
        if settings.model not in offered.values():
            rows.insert(0, _describe(CONFIGURED, settings, configured=True))
    return settings, rows


def batch_of(settings: Settings) -> int:
    """The batch size for which memory is estimated."""
    batch = settings.data.dataloader.batch_size
    return batch if isinstance(batch, int) else BATCH_FOR_AUTO


@contextmanager
def _silence() -> Iterator[None]:
    """Silences what the builder logs about each network."""
    models_logger = logging.getLogger("roadwork.models")
    level = models_logger.level
    models_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        models_logger.setLevel(level)


def _offered() -> Iterator[tuple[str, ModelSettings]]:
    names = {path.stem for folder in config_folders() for path in (folder / "model").glob("*.yaml")}
    for name in sorted(names):
        yield name, to_settings(OmegaConf.create({"defaults": [{"model": name}]})).model


def _describe(name: str, settings: Settings, *, configured: bool) -> Backbone:
    model = settings.model
    family: str | None = None
    cost: BackboneCost | None = None
    streetvision: bool | None = None
    problem: str | None = None
    try:
        family, cost, streetvision = _measure(settings)
    except Exception as error:  # noqa: BLE001 -- the other networks are still listed
        problem = " ".join(str(error).split()) or type(error).__name__
    return Backbone(
        name, model.name, configured, family, cost, licence_of(model), find_weights(model), streetvision, problem
    )


def _measure(settings: Settings) -> tuple[str, BackboneCost, bool]:
    training, size, batch = settings.training, settings.data.img_size, batch_of(settings)
    network = build_without_weights(_without_weights(settings.model), size)
    parameters, flops = sum(p.numel() for p in network.parameters()), forward_flops(network, size)
    predicting = prediction_bytes(network, size, batch)
    with torch.device("meta"):
        family = family_of(network.config)
        streetvision = as_own_class(network).config.model_type in STREETVISION_MODEL_TYPES
        if training.gradient_checkpointing:
            checkpoint_gradients(network)
        trained = adapt_network(network, training)
    if training.freeze_backbone:
        freeze_backbone(trained)
    cost = BackboneCost(
        parameters=parameters,
        trainable=sum(p.numel() for p in trained.parameters() if p.requires_grad),
        forward_flops=flops,
        training_bytes=training_bytes(trained.train(), size, batch, use_ema=training.use_ema),
        prediction_bytes=predicting,
    )
    return family, cost, streetvision


def _without_weights(model: ModelSettings) -> ModelSettings:
    """The settings of the same network without weights, with the stored configuration if the weights are here."""
    if not model.pretrained or find_weights(model) != HERE:
        return replace(model, pretrained=False)
    read_config(model)  # raises ConfigError if model.config does not fit the weights
    fields = {key: value for key, value in model.config.items() if key != "model_type"}
    return replace(model, pretrained=False, config=fields)


def find_weights(model: ModelSettings) -> str:
    """`random`, `here` or `not here`: whether a network's weights are on this machine; the hub is not asked."""
    if not model.pretrained:
        return RANDOM
    folder = Path(model.name)
    if folder.is_dir():
        return HERE if any(folder.glob("*.safetensors")) else ABSENT
    try:
        has_one = isinstance(try_to_load_from_cache(model.name, SAFE_WEIGHTS_NAME), str)
        index = try_to_load_from_cache(model.name, SAFE_WEIGHTS_INDEX_NAME)
        parts = json.loads(Path(index).read_text())["weight_map"].values() if isinstance(index, str) else ()
        has_all = bool(parts) and all(isinstance(try_to_load_from_cache(model.name, part), str) for part in set(parts))
    except (ValueError, KeyError):  # not a valid hub name
        return ABSENT
    return HERE if has_one or has_all else ABSENT
