"""A frozen backbone: the head alone is trained, on features that are computed once where nothing changes them."""

from __future__ import annotations

import logging
import time
from typing import cast

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from roadwork.data.datamodule import FITTED_SPLITS, NATIXDataModule
from roadwork.data.feature_datamodule import FeatureDataModule
from roadwork.data.features import compute_features

logger = logging.getLogger(__name__)


def why_no_features(network: nn.Module, datamodule: NATIXDataModule) -> str | None:
    """Why a frozen network has to see the images of each batch; None where its features can be computed once."""
    if not datamodule.leaves_images_alone:
        mode = datamodule.settings.data.augmentation.train.mode
        return (
            f"the augmentation ({mode}, {type(datamodule.train_augmentation).__name__}) changes the pictures in each "
            "epoch. With data.augmentation.train.mode=none they would be, and the head would train in seconds"
        )
    if not isinstance(network, PreTrainedModel):
        return f"{type(network).__name__} is no network of transformers, whose configuration tells its features apart"
    return None


def data_for_head(network: nn.Module, datamodule: NATIXDataModule) -> NATIXDataModule:
    """What the head of a frozen network is trained on: the images' features where they can be kept, else the images.

    Args:
        network: with a frozen backbone.
        datamodule: set up for a fit.

    Raises:
        DataError: more images than allowed cannot be read.
    """
    reason = why_no_features(network, datamodule)
    if reason is not None:
        logger.info("The backbone is frozen, and its features are not kept: %s.", reason)
        return datamodule
    return with_features(cast("PreTrainedModel", network), datamodule)


def with_features(network: PreTrainedModel, datamodule: NATIXDataModule) -> FeatureDataModule:
    """The data module's plain images as the features of a frozen network, computed once.

    Args:
        network: it stays as it is.
        datamodule: set up for a fit.

    Raises:
        DataError: more images than allowed cannot be read.
    """
    started = time.monotonic()
    rows = np.concatenate([datamodule.datasets[split].rows for split in FITTED_SPLITS])
    features = compute_features(network, datamodule.settings, datamodule.ledger, datamodule.source, rows)
    logger.info(
        "The backbone is frozen: its head trains on the features of %d photos, at hand in %.1f s.",
        len(features.rows),
        time.monotonic() - started,
    )
    return FeatureDataModule(datamodule, features)
