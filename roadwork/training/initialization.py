"""Initial weights: from another run, and frozen weights that need no checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn
from transformers import PreTrainedModel

from roadwork.config import load_yaml
from roadwork.core.errors import ConfigError, DataError, RoadworkError, SplitError
from roadwork.core.files import sha256_of
from roadwork.data.splitting.splits import Splits
from roadwork.models.build import build_model
from roadwork.models.processor import image_statistics
from roadwork.models.resize import resize, vision_config
from roadwork.runs.run import Run
from roadwork.settings import Settings, TrainingSettings
from roadwork.settings.sampling import HELD_OUT_SPLITS
from roadwork.training.checkpoints import OmittedWeights, fingerprint, load_weights
from roadwork.training.lora.apply import adapt_network, merge_adapter

logger = logging.getLogger(__name__)

# Interpolated to data.img_size by arithmetic that another processor may round differently; small, so they stay.
_COMPUTED = ("position_embedding", "pos_embed")

# Fields of a network's configuration that do not change what its weights mean.
_IGNORED_FIELDS = ("image_size", "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


def check_unseen(training: TrainingSettings, splits: Splits) -> None:
    """Checks that no run that this one starts from was trained on this run's held-out rows.

    Rows are compared by id, also between different datasets.

    Raises:
        SplitError: a held-out row was trained on.
        DataError: such a run is missing, or lacks its splits.
    """
    held_out = {row_id: name for name in HELD_OUT_SPLITS for row_id in splits.ids[name]}
    for folder in ancestors(training.start_from):
        seen = [row_id for row_id in _trained_on(folder) if row_id in held_out]
        if seen:
            raise SplitError(
                f"training.start_from: {folder} was trained on {len(seen):,} of the {len(held_out):,} held-out rows of "
                f"this run, first {seen[0]} ({held_out[seen[0]]}), so every metric would be too good. "
                f"Set data.splits_file={Run(folder).splits_file}, or start from a run on other rows."
            )


def describe_start(training: TrainingSettings) -> dict[str, Any]:
    """The manifest's entry on `start_from`: run, SHA-256 of its checkpoint, best val_select MCC; or an empty dict."""
    if training.start_from is None:
        return {}
    folder = Run.open(Path(training.start_from)).folder
    return {
        "start_from": {
            "run": str(folder),
            "checkpoint_sha256": sha256_of(Run(folder).best_checkpoint),
            "best_val_select_mcc": Run(folder).read_manifest().get("best_val_select_mcc"),
        }
    }


def ancestors(start_from: str | None) -> Iterator[Path]:
    """The folder of the run in `training.start_from`, of the run that that one started from, and so on."""
    while start_from is not None:
        folder = Run.open(Path(start_from)).folder
        yield folder
        start_from = OmegaConf.select(load_yaml(Run(folder).config_file), "training.start_from")


def _trained_on(folder: Path) -> list[str]:
    path = Run(folder).splits_file
    try:
        ids: list[str] = json.loads(path.read_text(encoding="utf-8"))["splits"]["train"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"training.start_from: {path}, which lists the rows that the run was trained on, cannot be read "
            f"({type(error).__name__}). Restore it, or start from another run."
        ) from error
    return ids


def find_omittable(network: nn.Module, settings: Settings) -> OmittedWeights | None:
    """The frozen weights that a fit's checkpoints can omit; None if they must hold everything.

    A frozen parameter can be omitted if building the network again gives the same bits, which is tried here. So a
    weight that the pretrained folder lacks, which is random, stays in the checkpoint. Buffers stay too: training
    changes BatchNorm's, and VeRA's projections follow from a seed only as long as torch draws the same numbers from it.

    Args:
        network: with its adapter or its frozen backbone, before the first step.
        settings: of the run.
    """
    if not can_omit_frozen(settings):
        return None
    frozen = {name: parameter for name, parameter in network.named_parameters() if not parameter.requires_grad}
    try:
        with _quiet():
            rebuilt = _rebuild_backbone(settings)
    except RoadworkError as error:  # the user's own network, which model.name does not describe
        logger.info("Checkpoints hold the frozen weights too: the network cannot be rebuilt (%s).", error)
        return None
    omitted = {
        name: parameter
        for name, parameter in frozen.items()
        if name in rebuilt
        and not any(part in name for part in _COMPUTED)
        and parameter.dtype == rebuilt[name].dtype
        and torch.equal(parameter.detach().cpu(), rebuilt[name].detach())
    }
    if not omitted:
        return None
    n_bytes = sum(weight.nbytes for weight in omitted.values())
    start = settings.training.start_from
    source = f"model.name={settings.model.name}" if start is None else f"training.start_from={start}"
    return OmittedWeights(list(omitted), fingerprint(omitted), n_bytes, source)


def can_omit_frozen(settings: Settings) -> bool:
    """Whether a run has frozen parameters whose values are read from files unchanged.

    If the run in `training.start_from` has an adapter, they are not: merging is arithmetic, which another processor may
    round differently.
    """
    training = settings.training
    if training.adapter == "none" and not training.freeze_backbone:
        return False
    if training.start_from is None:
        return bool(settings.model.pretrained)
    before = load_yaml(Run(Path(training.start_from)).config_file)
    return bool(OmegaConf.select(before, "training.adapter") == "none")


def build_untrained(settings: Settings) -> nn.Module:
    """A run's network with its adapter, whose trained weights are to come from a checkpoint.

    The weights that checkpoints omit have their values from before the run's first step.
    """
    network: nn.Module = adapt_network(_build_backbone(settings), settings.training)
    return network


def _build_backbone(settings: Settings) -> PreTrainedModel:
    network = build_model(settings.model, settings.data.img_size)
    if can_omit_frozen(settings):
        load_start(network, settings)
    return network


def _rebuild_backbone(settings: Settings) -> dict[str, nn.Parameter]:
    """The parameters of a run's network before its first step, without the adapter's own, by their adapted names."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.seed()  # with the run's own seed, random weights would seem to come from files
        network = _build_backbone(settings)
        own = {id(parameter) for parameter in network.parameters()}
        adapted = adapt_network(network, settings.training)
    return {name: parameter for name, parameter in adapted.named_parameters() if id(parameter) in own}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the package inside the block: the first build of this network has logged the same."""
    package = logging.getLogger("roadwork")
    level = package.level
    package.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        package.setLevel(level)


def load_start(network: nn.Module, settings: Settings) -> None:
    """Loads the best weights of the run in `training.start_from`, its adapter merged, into a network in place.

    If that run had another image size, position embeddings are interpolated, as `build_model` does.

    Args:
        network: without an adapter. `requires_grad` does not change, and no random number is drawn.
        settings: of the run that starts.

    Raises:
        DataError: there is no such run, or its best checkpoint is missing or damaged.
        ConfigError: its network is a different one, or cannot be resized to this image size.
    """
    if settings.training.start_from is None:
        return
    folder = Run.open(Path(settings.training.start_from)).folder
    before = Run(folder).read_settings()
    with torch.random.fork_rng(devices=[]):
        start = load_merged(folder, before)
        _check_same_network(network, start, folder)
        if image_statistics(settings.model) != image_statistics(before.model):
            raise ConfigError(
                f"training.start_from: {folder} normalised images for model.name={before.model.name}, unlike "
                f"model.name={settings.model.name}. Set model.* as in {folder}/config.yaml."
            )
        if before.data.img_size != settings.data.img_size:
            start = resize(start, settings.data.img_size, type(start))
    try:
        network.load_state_dict(start.state_dict())
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise ConfigError(
            f"training.start_from: the weights of {folder} do not fit this {type(network).__name__}: "
            f"{first[0].strip()} Set model.* as in {folder}/config.yaml."
        ) from None
    logger.info(
        "Training starts from the best weights of %s%s.",
        Run(folder).best_checkpoint,
        "" if before.training.adapter == "none" else f", its adapter ({before.training.adapter}) merged",
    )


def load_merged(folder: Path, settings: Settings) -> PreTrainedModel:
    """A run's network with its best weights on `val_select`, and its adapter merged.

    Raises:
        DataError: the run has no best checkpoint, or one that is damaged or of another network.
    """
    path = Run(folder).best_checkpoint
    if not path.is_file():
        raise DataError(
            f"training.start_from: {path} does not exist; that run ended before its first epoch did. "
            "Resume it, or name another run."
        )
    network = build_untrained(settings)
    load_weights(network, path)
    return merge_adapter(network)


def resolve_start(start_from: str | None) -> str | None:
    """`training.start_from` with the link `latest` resolved, which the next run moves."""
    if start_from is None or not Path(start_from).is_symlink():
        return start_from
    return str(Path(start_from).parent / Path(start_from).readlink())


def _check_same_network(network: nn.Module, start: PreTrainedModel, folder: Path) -> None:
    """Compares the configurations: networks with weights of the same shapes can differ, say in attention heads.

    Raises:
        ConfigError: they differ.
    """
    if not isinstance(network, PreTrainedModel):  # the user's own, without a configuration
        return
    ours, theirs = (_architecture(each) for each in (network, start))
    differing = [key for key in sorted(ours | theirs) if ours.get(key) != theirs.get(key)]
    if differing:
        key = "model_type" if "model_type" in differing else differing[0]
        raise ConfigError(
            f"training.start_from: {folder} has a different network: its {key} is {theirs.get(key)!r}, here it is "
            f"{ours.get(key)!r}. Set model.* as in {folder}/config.yaml."
        )


def _architecture(network: PreTrainedModel) -> dict[str, Any]:
    config: dict[str, Any] = network.config.to_dict()
    inner: dict[str, Any] = vision_config(network.config).to_dict()
    return {
        key: value
        for key, value in (config | inner).items()
        if key not in _IGNORED_FIELDS
        and key != "vision_config"
        and not any(part in key for part in ("dropout", "drop_path", "initializer"))
    } | {"class": type(network).__name__, "model_type": inner["model_type"]}
