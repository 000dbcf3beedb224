"""Trains only the head on a frozen backbone: as the complete fit, or as a probe before it (LP-FT)."""

from __future__ import annotations

import copy
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities.seed import isolate_rng
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from roadwork.core.devices import choose_device
from roadwork.core.errors import DataError
from roadwork.core.progress import track
from roadwork.data.augmentation.build import NoAugmentation
from roadwork.data.datamodule import FITTED_SPLITS, NATIXDataModule
from roadwork.data.dataset import ImageStore
from roadwork.data.features import FeatureDataModule, compute_features
from roadwork.models.classifier import PooledClassifier, has_patch_scores
from roadwork.models.head import in_evaluation_mode
from roadwork.models.patch_head import PatchHead
from roadwork.settings import TrainingSettings
from roadwork.training.callbacks.mcc_callback import MCCCallback
from roadwork.training.devices import build_lightning_trainer
from roadwork.training.module import RoadworkClassifier

logger = logging.getLogger(__name__)

PHOTOS_FOR_COMPONENTS, PATCHES_PER_PHOTO = 128, 128


def why_no_features(network: nn.Module, datamodule: NATIXDataModule) -> str | None:
    """Why a frozen network must see the images of each batch, or None if its features can be computed once."""
    if not datamodule.is_identity_augmentation:
        mode = datamodule.settings.data.augmentation.train.mode
        return (
            f"the augmentation ({mode}, {type(datamodule.train_augmentation).__name__}) changes the images in each "
            "epoch; with data.augmentation.train.mode=none they are computed once, and the head trains in seconds"
        )
    if has_patch_scores(network):
        return "model.pooling=top_patches chooses patches by their scores, which change while the head trains"
    if not isinstance(network, PreTrainedModel):
        return f"{type(network).__name__} is not a transformers network, so no configuration identifies its features"
    return None


def data_for_head(network: nn.Module, datamodule: NATIXDataModule) -> NATIXDataModule:
    """The data that the head of a frozen network trains on: features if they can be computed once, else images.

    Args:
        network: with a frozen backbone.
        datamodule: set up for a fit.

    Raises:
        DataError: more images than allowed cannot be read.
    """
    reason = why_no_features(network, datamodule)
    if reason is not None:
        logger.info("The backbone is frozen, but its features are computed anew in each epoch: %s.", reason)
        return datamodule
    return with_features(cast("PreTrainedModel", network), datamodule)


def with_features(network: PreTrainedModel, datamodule: NATIXDataModule) -> FeatureDataModule:
    """A data module with the features of a frozen network in place of the images, computed once.

    Args:
        network: does not change.
        datamodule: set up for a fit.

    Raises:
        DataError: more images than allowed cannot be read.
    """
    started = time.monotonic()
    rows = np.concatenate([datamodule.datasets[split].rows for split in FITTED_SPLITS])
    features = compute_features(network, datamodule.settings, datamodule.ledger, datamodule.source, rows)
    logger.info(
        "The backbone is frozen: the head trains on the features of %d photos, ready in %.1f s.",
        len(features.rows),
        time.monotonic() - started,
    )
    return FeatureDataModule(datamodule, features)


@torch.no_grad()
def fit_patch_components(network: nn.Module, datamodule: NATIXDataModule) -> None:
    """Fits the components of `model.patch_head=color` to patches of training photos, in place.

    Does nothing if the network has no such head, or one that is fitted already (`training.start_from`).

    Args:
        network: with its adapter, which does not change.
        datamodule: set up for a fit.

    Raises:
        DataError: none of the drawn photos can be read.
    """
    heads = [part for part in network.modules() if isinstance(part, PatchHead)]  # with an adapter, the head's copy too
    if all(head.is_fitted for head in heads):
        return
    plain = network.get_base_model() if isinstance(network, PeftModel) else network
    settings, rows = datamodule.settings, datamodule.datasets["train"].rows
    rng = np.random.default_rng(settings.training.seed)
    rows = rng.permutation(rows)[:PHOTOS_FOR_COMPONENTS]
    photos, patches = ImageStore(datamodule.source, settings.data.img_size), []
    device = choose_device("cpu" if settings.training.accelerator == "cpu" else "auto")
    with _same_state_after(plain):
        plain.to(device)
        for row in track(rows.tolist(), len(rows), "Fitting the patch head's components"):
            photo = photos.get(row)
            if isinstance(photo, Tensor):
                image = datamodule.normalise(photo[None].to(device).float().div_(255))
                found = cast("PooledClassifier", plain).patches(image)[0].cpu()
                patches.append(found[rng.permutation(len(found))[:PATCHES_PER_PHOTO]])
    if not patches:
        raise DataError(f"None of {len(rows)} training photos could be read. Check data.root, or fix the images.")
    share = max(head.fit_components(torch.cat(patches)) for head in heads)
    logger.info(
        "Patch head: its components keep %.0f %% of the variance of the tokens of %d training photos.",
        100 * share,
        len(patches),
    )


def probe_head(network: nn.Module, datamodule: NATIXDataModule) -> None:
    """Trains only the head for `training.probe_epochs`, in place, on the frozen features of plain images.

    Rows are drawn and the loss is computed as in the fit; augmentation is off. For a network that is not from
    transformers, each epoch reads the images. Afterwards the same parameters are trainable as before, and random
    generators continue as if nothing had been drawn.

    Args:
        network: with its adapter, which does not change.
        datamodule: set up for a fit.

    Raises:
        ConfigError: the network has no head.
        DataError: more images than allowed cannot be read.
    """
    training = datamodule.settings.training
    if training.probe_epochs == 0:
        return
    started = time.monotonic()
    plain = network.get_base_model() if isinstance(network, PeftModel) else network
    has_features = isinstance(plain, PreTrainedModel)
    with isolate_rng(), _same_state_after(plain):
        data = with_features(plain, datamodule) if has_features else _without_augmentation(datamodule)
        mcc = _fit_head(plain, data, training)
    logger.info(
        "Probe: trained only the head for %d epochs on %s in %.1f s: val_select MCC %.4f.",
        training.probe_epochs,
        "frozen features" if has_features else "the images",
        time.monotonic() - started,
        mcc,
    )


def _fit_head(network: nn.Module, data: NATIXDataModule, training: TrainingSettings) -> float:
    """Trains the head on rank zero's first device; returns the MCC on `val_select`."""
    settings = replace(
        training,
        epochs=training.probe_epochs,
        lr=training.probe_lr,
        freeze_backbone=True,
        probe_epochs=0,
        adapter="none",
        layer_decay=1.0,
        accumulate=1,
        clip_norm=0.0,
        precision="32-true",
        fused_optimizer=False,
        channels_last=training.channels_last and training.adapter != "dora",
    )
    mcc = MCCCallback()
    show_progress = sys.stderr.isatty()
    trainer = build_lightning_trainer(
        settings,
        [mcc, *([RichProgressBar(leave=False, console_kwargs={"stderr": True})] if show_progress else [])],
        Path(),
        alone=True,
        check_val_every_n_epoch=settings.epochs,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=show_progress,
    )
    try:
        trainer.fit(RoadworkClassifier(network, settings), datamodule=data)
    except SystemExit as error:  # Lightning exits silently on Ctrl-C
        raise KeyboardInterrupt from error
    return mcc.best_mcc


def _without_augmentation(datamodule: NATIXDataModule) -> NATIXDataModule:
    plain = copy.copy(datamodule)
    plain.train_augmentation = NoAugmentation(datamodule.settings.data.img_size)
    return plain


@contextmanager
def _same_state_after(network: nn.Module) -> Iterator[None]:
    """After the block, the same parameters are trainable, and every module is in the same mode, on the same device."""
    trainable = {parameter: parameter.requires_grad for parameter in network.parameters()}
    home = next(iter(trainable)).device
    try:
        with in_evaluation_mode(network):
            yield
    finally:
        network.to(home)
        for parameter, requires_grad in trainable.items():
            parameter.requires_grad_(requires_grad)
            parameter.grad = None
