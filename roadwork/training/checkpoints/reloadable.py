"""Which frozen weights come back bit for bit when the network is built again: checkpoints can leave them out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import nn
from transformers import PreTrainedModel

from roadwork.config import load_yaml
from roadwork.errors import RoadworkError
from roadwork.models.build import build_model
from roadwork.settings import Settings
from roadwork.training.checkpoints.left_out import LeftOut, fingerprint
from roadwork.training.lora.apply import STEPS_BEFORE_FIT, apply_adapter
from roadwork.training.start import load_start

logger = logging.getLogger(__name__)

# Interpolated to data.img_size by arithmetic that another processor may round otherwise; small, so they stay.
_COMPUTED = ("position_embedding", "pos_embed")


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
    before = load_yaml(Path(training.start_from) / "config.yaml")
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
        network, training.adapter, rank=training.adapter_rank, total_steps=STEPS_BEFORE_FIT
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
