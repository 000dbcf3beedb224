"""Training of the head alone on a frozen backbone, and LP-FT."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from roadwork.core.progress import track
from roadwork.core.rng import seed_all
from roadwork.data.datamodule import FITTED_SPLITS, NATIXDataModule
from roadwork.data.features import FeatureDataModule, choose_device, compute_features
from roadwork.metrics.classification import confusion_from, mcc_from_confusion
from roadwork.models.head import head_of, in_evaluation_mode
from roadwork.settings import TrainingSettings
from roadwork.training.module import balancing_weights, training_loss
from roadwork.training.optim import build_optimizer, warmup_cosine

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


def probe_head(network: nn.Module, datamodule: NATIXDataModule) -> None:
    """Trains the head alone for `training.probe_epochs`, on frozen features, in place; then all that was, is trainable.

    The features are of the plain images, whatever augmentation the fit has; rows are drawn and the loss is computed as
    in the fit. Where features cannot be kept, each epoch shows the images. Random generators end as they were.

    Args:
        network: with its adapter, which stays as it is.
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
    device = choose_device(training.accelerator)
    with isolate_rng(), _head_alone(plain, device):
        data = with_features(plain, datamodule) if isinstance(plain, PreTrainedModel) else datamodule
        _fit_head(plain, data, training, device)
        mcc = _mcc(plain, data, device)
    logger.info(
        "Probe: %d epochs of the head alone, on %s, in %.1f s: val_select MCC %.4f.",
        training.probe_epochs,
        "the images" if data is datamodule else "frozen features",
        time.monotonic() - started,
        mcc,
    )


@contextmanager
def _head_alone(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside the block `network` is on the device, in evaluation mode, and of what it trains the head alone trains."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    of_head = {id(parameter) for parameter in head_of(network).parameters()}
    home = trained[0].device
    try:
        with in_evaluation_mode(network):
            network.to(device)
            for parameter in trained:
                parameter.requires_grad_(id(parameter) in of_head)
            yield
    finally:
        network.to(home)
        for parameter in trained:
            parameter.requires_grad_()
            parameter.grad = None


def _fit_head(network: nn.Module, data: NATIXDataModule, training: TrainingSettings, device: torch.device) -> None:
    loader = data.train_dataloader()
    weights = balancing_weights(loader).to(device) if training.loss == "balanced" else None
    optimizer = build_optimizer(network, training.probe_lr, training.weight_decay)
    schedule = warmup_cosine(optimizer, training.probe_epochs * len(loader), training.warmup)
    head_of(network).train()
    for epoch in range(training.probe_epochs):
        cast("Any", loader.sampler).set_epoch(epoch)
        for step, batch in enumerate(_batches(data, loader, device)):
            seed_all(training.seed, epoch, step, 0)  # the head's dropout
            loss = training_loss(_logits(network, batch), batch["label"], training, weights)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
            optimizer.step()
            schedule.step()
    head_of(network).eval()


@torch.no_grad()
def _mcc(network: nn.Module, data: NATIXDataModule, device: torch.device) -> float:
    counts = torch.zeros(2, 2, dtype=torch.int64, device=device)
    for batch in _batches(data, data.val_dataloader(), device):
        counts += confusion_from(_logits(network, batch).argmax(dim=1), batch["label"])
    return float(mcc_from_confusion(counts))


def _batches(data: NATIXDataModule, loader: DataLoader[Any], device: torch.device) -> Iterator[dict[str, Any]]:
    """The batches as a fit is given them on its device, but never augmented: no trainer is training."""
    for batch in track(loader, len(loader), "Probing the head"):
        readable = data.on_before_batch_transfer(batch, 0)
        moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in readable.items()}
        yield data.on_after_batch_transfer(moved, 0)


def _logits(network: nn.Module, batch: dict[str, Any]) -> Tensor:
    logits: Tensor = (
        head_of(network)(batch["features"]) if "features" in batch else network(pixel_values=batch["image"]).logits
    )
    return logits
