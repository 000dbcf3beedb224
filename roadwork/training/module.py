"""The training and validation step of a binary image classifier."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from typing_extensions import override

from roadwork.settings import TrainingSettings
from roadwork.training.callbacks.adalora_callback import adalora_orthogonal_loss
from roadwork.training.optim import build_optimizer, warmup_cosine


class RoadworkClassifier(L.LightningModule):
    """Trains `model`, a network whose forward takes `pixel_values` (B, 3, S, S) and gives `.logits` (B, 2).

    Batches are the data module's: `image`, and `label` as (B,) integers or (B, 2) soft labels.
    """

    def __init__(self, model: nn.Module, settings: TrainingSettings) -> None:
        super().__init__()
        # 0.7 of the time for a step of the small ResNet on a CPU, and what GPUs' convolutions want too.
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.settings = settings

    def forward(self, images: Tensor) -> Tensor:
        """(B, 2) logits of None and Roadwork."""
        logits: Tensor = self.model(pixel_values=images.contiguous(memory_format=torch.channels_last)).logits
        return logits

    @override
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch["image"])
        loss = F.cross_entropy(logits.float(), batch["label"], label_smoothing=self.settings.label_smoothing)
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, batch_size=len(logits))
        if self.settings.adapter == "adalora":  # peft adds it only where the wrapped model computes the loss
            loss = loss + adalora_orthogonal_loss(self.model)
        return {"loss": loss, "logits": logits.detach(), "labels": batch["label"]}

    @override
    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch["image"])
        loss = F.cross_entropy(logits.float(), batch["label"])
        self.log("val_select/loss", loss, on_epoch=True, sync_dist=True, batch_size=len(logits))
        return {"loss": loss, "logits": logits, "labels": batch["label"]}

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = build_optimizer(self.model, self.settings.lr, self.settings.weight_decay)
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = warmup_cosine(optimizer, total_steps, self.settings.warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
