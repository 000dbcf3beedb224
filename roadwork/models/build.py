"""Builds an image classifier with two classes, from weights or from a configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from roadwork.core.errors import ConfigError
from roadwork.models.architecture import auto_class, load_local_first, read_config
from roadwork.models.classifier import COLOR, WITHOUT_CLASSIFIER, with_pooling
from roadwork.models.head import find_head
from roadwork.models.processor import image_statistics
from roadwork.models.regularization import set_drop_path, set_head_dropout
from roadwork.models.resize import (
    NAFLEX,
    at_fixed_size,
    fixed_config,
    resize,
    set_depth,
    set_image_size,
    vision_config,
)
from roadwork.settings import ModelSettings

logger = logging.getLogger(__name__)


def build_model(model: ModelSettings, img_size: int) -> PreTrainedModel:
    """A float32 network that maps (B, 3, img_size, img_size) to `.logits` (B, 2): None, Roadwork.

    The network is a class of transformers, or a PooledClassifier if transformers has none for the backbone or for
    model.pooling. Random weights come from torch's global generator: seed it first. Position embeddings of pretrained
    weights are interpolated to img_size (bicubic, by the model's own method). Parameters that classification does not
    use, such as DINOv2's mask token and SigLIP's pooling head, are frozen.

    Args:
        model: the network and its weights.
        img_size: height and width of the images in pixels.

    Raises:
        ConfigError: the model is not found; a field of its configuration is unknown or does not fit the weights;
            img_size is not a multiple of its patch size; or it does not support model.attention, model.depth,
            model.pooling or model.drop_path.
    """
    if model.drop_path and model.config.get("drop_path_rate"):
        raise ConfigError("model.drop_path and model.config.drop_path_rate are both set. Remove the latter.")
    with without_transformers_report():  # it warns about token ids of SigLIP's text part, which is not used
        config = read_config(model)
    _check_patches(config, img_size)
    if model.depth is not None:
        set_depth(vision_config(config), model.depth)
    if model.attention != "auto":
        config._attn_implementation = model.attention  # noqa: SLF001  # every network built from it uses this
    if model.pretrained:
        network = _load(model.name, config)
        if config.model_type == NAFLEX:
            network = at_fixed_size(network, img_size)
        network = resize(network, img_size, _from_config)
    else:
        if config.model_type == NAFLEX:
            config = fixed_config(config, img_size)
        set_image_size(vision_config(config), img_size)
        network = _from_config(config)
    network = with_pooling(network, model.pooling, **_patch_options(model))
    set_drop_path(network, model.drop_path)
    set_head_dropout(network, model.head_dropout)
    _freeze_unused(network, img_size)
    return network


def _patch_options(model: ModelSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"top_patches": model.top_patches, "patch_head": model.patch_head}
    if model.patch_head == COLOR:
        statistics = image_statistics(model)
        options |= {"image_mean": statistics.mean, "image_std": statistics.std}
    return options


def _freeze_unused(network: PreTrainedModel, img_size: int) -> None:
    """Freezes the parameters that the logits do not depend on, as the autograd graph of one forward pass shows."""
    was_training = network.training
    network.eval()  # BatchNorm must not update its statistics
    with torch.enable_grad():
        logits = network(pixel_values=torch.zeros(1, 3, img_size, img_size)).logits
    network.train(was_training)
    used, seen, nodes = set(), set(), [logits.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        used.add(id(getattr(node, "variable", None)))
        nodes += [following for following, _ in node.next_functions]
    unused = {name: p for name, p in network.named_parameters() if p.requires_grad and id(p) not in used}
    for parameter in unused.values():
        parameter.requires_grad_(requires_grad=False)
    if unused:
        logger.info(
            "Froze %d tensors of the network that classification does not use, first %s.",
            len(unused),
            next(iter(unused)),
        )


def _check_patches(config: PreTrainedConfig, img_size: int) -> None:
    patch = getattr(vision_config(config), "patch_size", None)
    if not isinstance(patch, int) or img_size % patch == 0:
        return
    lower = max(img_size // patch, 1) * patch
    raise ConfigError(
        f"data.img_size is {img_size}, not a multiple of this {config.model_type}'s patch size, {patch}. "
        f"The nearest sizes are {lower} and {(img_size // patch + 1) * patch}."
    )


def _from_config(config: PreTrainedConfig) -> PreTrainedModel:
    try:
        return auto_class(config).from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise _unusable(config, error) from None


def _load(name: str, config: PreTrainedConfig) -> PreTrainedModel:
    def load(local_files_only: bool) -> tuple[PreTrainedModel, dict[str, Any]]:
        loaded: tuple[PreTrainedModel, dict[str, Any]] = auto_class(config).from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            local_files_only=local_files_only,
            output_loading_info=True,
        )
        return loaded

    with without_transformers_report():
        try:
            network, report = load_local_first(name, load)
        except ConfigError:
            raise
        except ValueError as error:
            raise _unusable(config, error) from None
    _check_loaded(name, network, report)
    return network


def _check_loaded(name: str, network: PreTrainedModel, report: dict[str, Any]) -> None:
    """Logs which weights are new.

    Raises:
        ConfigError: weights other than the head have other shapes, or none of them was found.
    """
    # A backbone without a head gets one later.
    head = () if network.config.model_type in WITHOUT_CLASSIFIER else (f"{find_head(network)}.",)
    misfits = sorted(key for key, *_ in report["mismatched_keys"] if not key.startswith(head))
    if misfits:
        raise ConfigError(
            f"{len(misfits)} weights of {name} do not fit its configuration, first {misfits[0]}. Repair the folder, or "
            "set model.pretrained=false."
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(head))
    backbone = [key for key, _ in network.named_parameters() if not key.startswith(head)]
    if len(missing) >= len(backbone):
        raise ConfigError(f"{name} has no weights of a {network.config.model_type}. Check the folder or the name.")
    if missing:
        logger.warning("%s lacks %d weights, which start at random: %s.", name, len(missing), ", ".join(missing))
    fresh = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])} - set(missing))
    logger.info("Newly initialised head of %s: %s.", name, ", ".join(fresh) or "none; it was loaded")


@contextmanager
def without_transformers_report() -> Iterator[None]:
    """Silences transformers' table and progress bar of a load; `_check_loaded` logs what matters."""
    verbosity, has_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_bars:
            transformers_logging.enable_progress_bar()


def _unusable(config: PreTrainedConfig, error: ValueError) -> ConfigError:
    reason = str(error).strip().splitlines()[0]
    if "scaled_dot_product_attention" in reason:
        return ConfigError(
            f"model.attention is sdpa, which a {config.model_type} does not support; allowed: auto, eager."
        )
    return ConfigError(f"transformers cannot build an image classifier from this {config.model_type}: {reason}")
