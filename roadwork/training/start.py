"""Where training starts, if not from the weights that `model` names: from another run's best ones."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from roadwork.config import load_yaml, to_settings
from roadwork.errors import ConfigError, DataError
from roadwork.models.processor import image_statistics
from roadwork.models.resize import resize, vision_config
from roadwork.runs import find_run_folder
from roadwork.settings import Settings
from roadwork.training.checkpoints.files import BEST
from roadwork.training.checkpoints.weights import load_weights
from roadwork.training.lora.apply import merge_adapter

logger = logging.getLogger(__name__)

# Of a network's configuration: names, sizes that weights are resized to, and what acts in training alone.
_NO_ARCHITECTURE = ("image_size", "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


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
    folder = find_run_folder(Path(settings.training.start_from))
    before = to_settings(load_yaml(folder / "config.yaml"))
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
        folder / "checkpoints" / BEST,
        "" if before.training.adapter == "none" else f", its adapter ({before.training.adapter}) merged",
    )


def load_merged(folder: Path, settings: Settings) -> PreTrainedModel:
    """The network of a run with the weights that did best on `val_select`, and without its adapter.

    Raises:
        DataError: the run has no best checkpoint, or one that is damaged or of another network.
    """
    # It rebuilds frozen weights, by way of `load_start` where that run has a start of its own.
    from roadwork.training.checkpoints.reloadable import build_untrained  # noqa: PLC0415 -- each needs the other

    path = folder / "checkpoints" / BEST
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
