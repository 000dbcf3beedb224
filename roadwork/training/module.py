"""The training and validation step of a binary image classifier."""

from __future__ import annotations

import logging
from typing import Any, Self, cast

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from roadwork.data.augmentation.seeding import seed_all
from roadwork.models.head import freeze_backbone, head_of, train_head_alone
from roadwork.settings import TrainingSettings
from roadwork.training.callbacks.adalora_callback import adalora_orthogonal_loss
from roadwork.training.checkpoints.left_out import LeftOut, leave_out, put_back
from roadwork.training.finite import spread_non_finite
from roadwork.training.losses import balancing_weights, training_loss
from roadwork.training.optim import build_optimizer, use_fused, warmup_cosine

logger = logging.getLogger(__name__)


class RoadworkClassifier(L.LightningModule):
    """Trains `model`, a network whose forward takes `pixel_values` (B, 3, S, S) and gives `.logits` (B, 2).

    Batches are the data module's: `image`, and `label` as (B,) integers or (B, 2) soft labels. Where the backbone is
    frozen they may have `features` (B, D) in place of `image`; then the head alone is called.
    """

    def __init__(self, model: nn.Module, settings: TrainingSettings) -> None:
        super().__init__()
        # Channels last: 0.7 of the time for a step of the small ResNet on a CPU, and what GPUs' convolutions want too.
        # Not with DoRA, whose convolutions peft 0.21 views as matrices.
        is_last = settings.channels_last and settings.adapter != "dora"
        self.memory_format = torch.channels_last if is_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's stubs lack it
        self.settings = settings
        # Frozen weights that checkpoints need not hold; whoever knows where the weights came from says which.
        self.left_out: LeftOut | None = None
        self.class_weights: Tensor | None = None
        self.model.train()  # pretrained networks come in evaluation mode
        if settings.freeze_backbone:
            freeze_backbone(self.model)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 2) logits of None and Roadwork."""
        logits: Tensor = self.model(pixel_values=images.contiguous(memory_format=self.memory_format)).logits
        return logits

    def logits_of(self, batch: dict[str, Any]) -> Tensor:
        """(B, 2) logits of a batch: from its images, or from the features that its frozen backbone gave."""
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
    def on_train_start(self) -> None:
        if self.settings.freeze_backbone:
            self.train()  # not before: Lightning warns of modules that are in evaluation mode until here
        if self.settings.loss == "balanced":
            self.class_weights = balancing_weights(cast("Any", self.trainer.train_dataloader)).to(self.device)
            logger.info("Loss weights: None %.2f, Roadwork %.2f.", *self.class_weights.tolist())

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout and the like follow from the step alone: a run that is resumed draws what it would have drawn.
        seed_all(self.settings.seed, self.current_epoch, batch_idx, self.global_rank)

    @override
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        logits = self.logits_of(batch)
        loss = training_loss(logits, batch["label"], self.settings, self.class_weights)
        criterion = loss.detach()
        if self.settings.adapter == "adalora":  # peft adds it only where the wrapped model computes the loss
            loss = loss + adalora_orthogonal_loss(self.model)
        loss = spread_non_finite(loss)
        return {"loss": loss, "criterion": criterion, "logits": logits.detach(), "labels": batch["label"]}

    @override
    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor] | None:
        if "is_repeat" in batch:  # of another device's rows
            return None
        logits = self.logits_of(batch)
        loss = F.cross_entropy(logits.float(), batch["label"])
        return {"loss": loss, "logits": logits, "labels": batch["label"]}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        leave_out(checkpoint, self.left_out)  # after the callbacks: EMA has put its weights in

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        put_back(checkpoint, self.model)  # before Lightning loads the weights, strictly

    @override
    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning's own refuses fused optimizers in any mixed precision, also bf16, which scales no loss.
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
