"""The LightningModule: its steps, losses and optimizer."""

from __future__ import annotations

import logging
import math
from typing import Any, Self, cast

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from typing_extensions import override

from roadwork.core.errors import DataError, WiringError
from roadwork.core.rng import seed_all
from roadwork.models.head import freeze_backbone, head_of, train_head_alone
from roadwork.settings import TrainingSettings
from roadwork.training.callbacks.adalora_callback import adalora_orthogonal_loss
from roadwork.training.callbacks.base import StepState
from roadwork.training.checkpoints import OmittedWeights, omit_frozen, restore_frozen
from roadwork.training.optim import build_optimizer, use_fused, warmup_cosine

logger = logging.getLogger(__name__)

N_CLASSES = 2


def training_loss(
    logits: Tensor, labels: Tensor, training: TrainingSettings, class_weights: Tensor | None = None
) -> Tensor:
    """The mean loss over a batch's rows, a scalar.

    With smoothed targets t (one-hot or soft) and probabilities p, a row's loss is the sum over the classes c of

    - `cross_entropy`: -t_c log p_c,
    - `balanced`: -w_c t_c log p_c, so a mixed row is weighted by its mixture,
    - `focal`: see :func:`focal_loss`.

    Args:
        logits: (B, 2) of None and Roadwork.
        labels: (B,) integers, or (B, 2) soft labels that sum to 1.
        training: the loss and its label smoothing.
        class_weights: (2,) w of the balanced loss, from :func:`balancing_weights`.

    Raises:
        WiringError: the balanced loss has no weights.
    """
    logits = logits.float()
    if training.loss == "cross_entropy":
        return F.cross_entropy(logits, labels, label_smoothing=training.label_smoothing)
    targets = F.one_hot(labels, N_CLASSES) if labels.dim() == 1 else labels
    targets = targets.to(logits.dtype)
    if training.loss == "focal":
        smoothed = targets * (1 - training.label_smoothing) + training.label_smoothing / N_CLASSES
        return focal_loss(logits, smoothed, training.focal_gamma)
    if class_weights is None:
        raise WiringError("training.loss is balanced, but the class weights are not set; a fit sets them at its start.")
    # As soft labels: with integers torch divides by the sum of the batch's weights, which varies.
    return F.cross_entropy(logits, targets, weight=class_weights, label_smoothing=training.label_smoothing)


def focal_loss(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """The mean over rows of -sum_c t_c (1 - p_c)^gamma log p_c, a scalar.

    For a hard label this is equation 4 of Lin et al. 2017 (arXiv:1708.02002). For a soft label it is the mean over the
    classes, weighted by the label, as mixup mixes losses (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        logits: (B, 2).
        targets: (B, 2) that sum to 1.
        gamma: 0 or more; 0 gives cross-entropy.
    """
    log_p = F.log_softmax(logits, dim=1)
    # log (1 - p_c) is the other class's log p: exact and with a gradient even where p rounds to 1.
    return -(targets * (gamma * log_p.flip(1)).exp() * log_p).sum(dim=1).mean()


def spread_non_finite(loss: Tensor) -> Tensor:
    """The scalar loss itself if finite; otherwise one whose gradients are all NaN.

    The gradients then always show a non-finite loss. An infinite loss can have finite gradients (a logit of -infinity
    does it), and ranks that train together average gradients, not losses.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)


def balancing_weights(loader: DataLoader[Any]) -> Tensor:
    """Class weights (2,) float32 of None and Roadwork, with which both count equally over an epoch; 1 on average.

    A class's weight is 1 / (2 x its fraction of the drawn rows), which follows the sampler's weights, if it has any.

    Args:
        loader: the training loader; its dataset has `labels` (N,) of 0 and 1.

    Raises:
        DataError: it has no labels, or draws a single class.
    """
    labels = getattr(loader.dataset, "labels", None)
    if labels is None:
        raise DataError(
            "training.loss is balanced, which needs a training set with `labels` (N,), one per row. Add them, or use "
            "training.loss=cross_entropy."
        )
    drawn = np.asarray(getattr(loader.sampler, "weights", np.ones(len(labels))), dtype=np.float64)
    totals = np.bincount(np.asarray(labels, dtype=np.int64), drawn, N_CLASSES)
    if not totals.all():
        raise DataError(
            "training.loss is balanced, but training draws a single class (total weights of None and Roadwork: "
            f"{totals[0]:g}, {totals[1]:g}). Check the labels, the splits and data.gps_sampling.weight_brackets."
        )
    return torch.from_numpy(totals.sum() / (N_CLASSES * totals)).float()


class RoadworkClassifier(L.LightningModule):
    """Trains a network whose forward takes `pixel_values` (B, 3, S, S) and returns `.logits` (B, 2).

    Batches are the data module's: `image` (B, 3, S, S), and `label` as integers (B,) or soft labels (B, 2). With a
    frozen backbone they may have `features` (B, D) in place of `image`; then only the head runs.

    Attributes:
        omitted: frozen weights that checkpoints omit.
        step_state: the latest optimizer step, for the callbacks.
    """

    def __init__(self, model: nn.Module, settings: TrainingSettings) -> None:
        super().__init__()
        # Channels last makes a step of the small ResNet 0.7 times as long on a CPU; convolutions on GPUs prefer it too.
        # Not with DoRA, whose convolutions peft 0.21 views as matrices.
        is_last = settings.channels_last and settings.adapter != "dora"
        self.memory_format = torch.channels_last if is_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's stubs lack it
        self.settings = settings
        # Set by BaseTrainer, which knows the source of the frozen weights.
        self.omitted: OmittedWeights | None = None
        self.class_weights: Tensor | None = None
        self.step_state = StepState()
        self.model.train()  # pretrained networks are in evaluation mode
        if settings.freeze_backbone:
            freeze_backbone(self.model)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 2) logits of None and Roadwork."""
        logits: Tensor = self.model(pixel_values=images.contiguous(memory_format=self.memory_format)).logits
        return logits

    def logits_of(self, batch: dict[str, Any]) -> Tensor:
        """(B, 2) logits of a batch, from its images or its frozen features."""
        if "features" in batch:
            logits: Tensor = head_of(self.model)(batch["features"])
            return logits
        return cast("Tensor", self(batch["image"]))

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if mode and self.settings.freeze_backbone:
            train_head_alone(self.model)
        return self

    @override
    def on_fit_start(self) -> None:
        self.step_state = StepState()

    @override
    def on_train_start(self) -> None:
        if self.settings.freeze_backbone:
            self.train()  # not earlier: Lightning warns of modules in evaluation mode
        if self.settings.loss == "balanced":
            self.class_weights = balancing_weights(cast("Any", self.trainer.train_dataloader)).to(self.device)
            logger.info("Loss weights: None %.2f, Roadwork %.2f.", *self.class_weights.tolist())

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout depends only on the step, so a resumed run draws the same numbers as an uninterrupted one.
        seed_all(self.settings.seed, self.current_epoch, batch_idx, self.global_rank)

    @override
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        logits = self.logits_of(batch)
        loss = training_loss(logits, batch["label"], self.settings, self.class_weights)
        criterion = loss.detach()
        if self.settings.adapter == "adalora":  # peft adds it only if the wrapped model computes the loss
            loss = loss + adalora_orthogonal_loss(self.model)
        loss = spread_non_finite(loss)
        return {"loss": loss, "criterion": criterion, "logits": logits.detach(), "labels": batch["label"]}

    @override
    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor] | None:
        if "is_repeat" in batch:  # another device's row
            return None
        logits = self.logits_of(batch)
        loss = F.cross_entropy(logits.float(), batch["label"])
        return {"loss": loss, "logits": logits, "labels": batch["label"]}

    @override
    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor] | None:
        return self.validation_step(batch, batch_idx)

    @override
    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor] | None:
        """The `logits` (B, 2) of a batch and its `index` (B,), the rows of the data module's table."""
        if "is_repeat" in batch:  # another device's row
            return None
        return {"logits": self.logits_of(batch), "index": batch["index"]}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        omit_frozen(checkpoint, self.omitted)  # Lightning calls it after the callbacks: EMA has added its weights

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        restore_frozen(checkpoint, self.model)  # before Lightning loads the weights, strictly

    @override
    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning's own refuses fused optimizers in any mixed precision, even bf16, which has no loss scale.
        if gradient_clip_val:
            self.trainer.precision_plugin.clip_grad_by_norm(optimizer, gradient_clip_val)

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        fused = use_fused(self.settings.fused_optimizer, trained, self.trainer.precision)
        optimizer = build_optimizer(
            self.model,
            self.settings.lr,
            self.settings.weight_decay,
            layer_decay=self.settings.layer_decay,
            fused=fused,
        )
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = warmup_cosine(optimizer, total_steps, self.settings.warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
