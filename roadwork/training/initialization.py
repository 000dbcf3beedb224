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
from roadwork.training.checkpoints import LeftOut, fingerprint, load_weights
from roadwork.training.lora.apply import STEPS_BEFORE_FIT, apply_adapter, merge_adapter

logger = logging.getLogger(__name__)


# Interpolated to data.img_size by arithmetic that another processor may round otherwise; small, so they stay.
_COMPUTED = ("position_embedding", "pos_embed")

# Of a network's configuration: names, sizes that weights are resized to, and what acts in training alone.
_NO_ARCHITECTURE = ("image_size", "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


def check_unseen(training: TrainingSettings, splits: Splits) -> None:
    """Checks that no run before this one was trained on rows that this one is judged by.

    Rows are known by their ids, also where the runs read different datasets.

    Raises:
        SplitError: one was.
        DataError: one of them is not there, or lacks its splits.
    """
    judge = {row_id: name for name in HELD_OUT_SPLITS for row_id in splits.ids[name]}
    for folder in ancestors(training.start_from):
        seen = [row_id for row_id in _trained_on(folder) if row_id in judge]
        if seen:
            raise SplitError(
                f"training.start_from: {len(seen):,} of the {len(judge):,} rows that judge this run were seen in "
                f"the training of {folder}, first {seen[0]} ({judge[seen[0]]}): every figure would be too good. "
                f"Set data.splits_file={Run(folder).splits_file}, or start from a run on other rows."
            )


def describe_start(training: TrainingSettings) -> dict[str, Any]:
    """For the manifest: the run in `start_from`, its checkpoint's SHA-256 and its best val_select MCC; or nothing."""
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
    """The folder of the run in `training.start_from`, of the one that it started from, and so on."""
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
            f"training.start_from: {path} cannot be read ({type(error).__name__}), so it is not known which rows that "
            "run was trained on. Restore it, or start from another run."
        ) from error
    return ids


def find_left_out(network: nn.Module, settings: Settings) -> LeftOut | None:
    """What checkpoints of a fit can leave out; None where they hold everything.

    These are the frozen parameters that come back when the network is built again, which is tried here: a weight that
    the pretrained folder lacks is random, so it stays in the checkpoint. Buffers stay too: training changes
    BatchNorm's, and VeRA's projections follow from a seed only as long as torch draws the same numbers from it.

    Args:
        network: with its adapter or its frozen backbone, before the first step.
        settings: of the run.
    """
    if not can_leave_out(settings):
        return None
    frozen = {name: parameter for name, parameter in network.named_parameters() if not parameter.requires_grad}
    try:
        with _unheard():
            again = _backbone_again(settings)
    except RoadworkError as error:  # a network that its user made, and that model.name does not describe
        logger.info("Checkpoints hold the frozen weights too: they could not be had again (%s).", error)
        return None
    names = [
        name
        for name, parameter in frozen.items()
        if name in again
        and not any(part in name for part in _COMPUTED)
        and parameter.dtype == again[name].dtype
        and torch.equal(parameter.detach().cpu(), again[name].detach())
    ]
    if not names:
        return None
    left_out = {name: frozen[name] for name in names}
    return LeftOut(names, fingerprint(left_out), sum(weight.nbytes for weight in left_out.values()), _source(settings))


def can_leave_out(settings: Settings) -> bool:
    """Whether parameters are frozen whose values are read from files as they are.

    Those of `training.start_from` are not where that run has an adapter: merging is arithmetic, and another processor
    may round it otherwise.
    """
    training = settings.training
    if training.adapter == "none" and not training.freeze_backbone:
        return False
    if training.start_from is None:
        return settings.model.pretrained
    before = load_yaml(Run(Path(training.start_from)).config_file)
    return bool(OmegaConf.select(before, "training.adapter") == "none")


def build_untrained(settings: Settings) -> nn.Module:
    """The network of a run, with its adapter, whose weights are to come from a checkpoint.

    Those that checkpoints leave out are what they were before the run's first step.
    """
    return _adapt(_build_backbone(settings), settings)


def _build_backbone(settings: Settings) -> PreTrainedModel:
    network = build_model(settings.model, settings.data.img_size)
    if can_leave_out(settings):
        load_start(network, settings)
    return network


def _adapt(network: PreTrainedModel, settings: Settings) -> nn.Module:
    training = settings.training
    adapted: nn.Module = apply_adapter(
        network, training.adapter, rank=training.adapter_rank or 8, total_steps=STEPS_BEFORE_FIT
    )
    return adapted


def _backbone_again(settings: Settings) -> dict[str, nn.Parameter]:
    """The parameters of a run's network before its first step, but for the adapter's own, by their adapted names."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.seed()  # with the run's own seed, random weights would seem to come back
        network = _build_backbone(settings)
        own = {id(parameter) for parameter in network.parameters()}
        adapted = _adapt(network, settings)
    return {name: parameter for name, parameter in adapted.named_parameters() if id(parameter) in own}


def _source(settings: Settings) -> str:
    start = settings.training.start_from
    return f"model.name={settings.model.name}" if start is None else f"training.start_from={start}"


@contextmanager
def _unheard() -> Iterator[None]:
    """Inside the block the package logs nothing: what it says of this network it has said before."""
    package = logging.getLogger("roadwork")
    level = package.level
    package.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        package.setLevel(level)


def load_start(network: nn.Module, settings: Settings) -> None:
    """Puts the best weights of the run in `training.start_from`, its adapter merged, into a network in place.

    Where that run had images of another size, position embeddings are interpolated, as `build_model` does.

    Args:
        network: without an adapter. Which of its parameters are trained stays as it is, and nothing random is drawn.
        settings: of the run that starts.

    Raises:
        DataError: there is no such run, or its best checkpoint is missing or damaged.
        ConfigError: its network is another one, or cannot be had for images of this size.
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
                f"training.start_from: images were normalised for {folder} as model.name={before.model.name} wants it, "
                f"and would be otherwise for model.name={settings.model.name}. Set model.* as in {folder}/config.yaml."
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
    """The network of a run with the weights that did best on `val_select`, and without its adapter.

    Raises:
        DataError: the run has no best checkpoint, or one that is damaged or of another network.
    """
    # It rebuilds frozen weights, by way of `load_start` where that run has a start of its own.

    path = Run(folder).best_checkpoint
    if not path.is_file():
        raise DataError(
            f"training.start_from: {path} is not there, since that run ended before its first epoch did. "
            "Train it on, or name another run."
        )
    network = build_untrained(settings)
    load_weights(network, path)
    return merge_adapter(network)


def name_start(start_from: str | None) -> str | None:
    """`training.start_from` by the run's own name, where it is the link `latest`: the next run moves that."""
    if start_from is None or not Path(start_from).is_symlink():
        return start_from
    return str(Path(start_from).parent / Path(start_from).readlink())


def _check_same_network(network: nn.Module, start: PreTrainedModel, folder: Path) -> None:
    """By the configurations: heads of attention, say, can differ between networks whose weights have the same shapes.

    Raises:
        ConfigError: they differ.
    """
    if not isinstance(network, PreTrainedModel):  # a user's own; the shapes of its weights have to do
        return
    ours, theirs = (_architecture(each) for each in (network, start))
    differing = [key for key in sorted(ours | theirs) if ours.get(key) != theirs.get(key)]
    if differing:
        key = "model_type" if "model_type" in differing else differing[0]
        raise ConfigError(
            f"training.start_from: the network of {folder} is another one: its {key} is {theirs.get(key)!r}, here it "
            f"is {ours.get(key)!r}. Set model.* as in {folder}/config.yaml."
        )


def _architecture(network: PreTrainedModel) -> dict[str, Any]:
    config: dict[str, Any] = network.config.to_dict()
    inner: dict[str, Any] = vision_config(network.config).to_dict()
    return {
        key: value
        for key, value in (config | inner).items()
        if key not in _NO_ARCHITECTURE
        and key != "vision_config"
        and not any(part in key for part in ("dropout", "drop_path", "initializer"))
    } | {"class": type(network).__name__, "model_type": inner["model_type"]}
