"""Numbers that go wrong in a fit: steps whose loss or gradients are not finite are left out, up to a limit."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from roadwork.core.errors import DivergedError
from roadwork.runs.run import BEST, LAST, PREVIOUS
from roadwork.settings import TrainingSettings
from roadwork.training.nan_guard import SeenBatch, Suspects, find_suspects, name_some, non_finite_names

logger = logging.getLogger(__name__)

SKIPPED_FILE = "skipped_steps.jsonl"


class HealthCallback(Callback):
    """Leaves out optimizer steps whose loss or gradients are not finite, and stops a run that has too many in a row.

    A step that is left out changes no weight, no moment of AdamW, no buffer (BatchNorm's statistics) and no average.
    What follows from a step's number goes on: `global_step`, the learning rate, AdaLoRA's schedule of pruning, whose
    importances see gradients of zero. With `training.accumulate` all batches of the step are left out. The limit holds
    for steps in a row: one broken photo comes back in each epoch and does no harm, a network that has diverged never
    gives a finite loss again.

    It refuses checkpoints with weights or averages that are not finite; register it after the EMA callback.

    Args:
        training: with `max_skipped_steps`, which a run survives in a row; one more stops it.
        run_folder: gets `skipped_steps.jsonl`, a line for each step that was left out, and has `checkpoints`.

    Attributes:
        n_skipped: steps left out so far, those before a resume included.
        is_skipped: whether the latest step was left out, here or by float16's scaler.
        gradient_norm: of the latest step, before clipping.
    """

    def __init__(self, training: TrainingSettings, run_folder: Path) -> None:
        self.training = training
        self.run_folder = run_folder
        self.n_skipped = 0
        self.is_skipped = False
        self.gradient_norm = math.nan
        self._n_before_epoch = 0
        self._n_in_row = 0
        self._ids_in_row: list[str] = []
        self._broken_in_row: list[str] = []
        self._batches: list[SeenBatch] = []
        self._buffers: list[Tensor] = []
        self._buffers_before: list[Tensor] = []

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        state = pl_module.state_dict(keep_vars=True).values()
        self._buffers = [tensor for tensor in state if not isinstance(tensor, nn.Parameter)]
        self._buffers_before = [buffer.clone() for buffer in self._buffers]

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._n_before_epoch = self.n_skipped

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._batches and self._buffers:
            torch._foreach_copy_(self._buffers_before, self._buffers)  # one kernel for all of them
        self._batches.append(SeenBatch.of(batch))

    @override
    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self._batches[-1].loss = loss.detach()

    @override
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        batches, self._batches = self._batches, []
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        # A GPU is waited for here, once a step: until its backward pass is done. It then idles while the host queues
        # the optimizer and the next forward pass, which is little beside a step of a large network. AdamW's own
        # `found_inf` would leave a step out without the host; but average, buffers and counts would have to be set
        # back a step too late, when checkpoints may hold them.
        self.gradient_norm = float(torch.nn.utils.get_total_norm(gradients))
        self.is_skipped = not math.isfinite(self.gradient_norm)
        if not self.is_skipped:
            self._n_in_row, self._ids_in_row, self._broken_in_row = 0, [], []
            return
        # All ranks come here together: they have the same gradients.
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = scaler.get_scale() if scaler else 1.0
        suspects = find_suspects(trainer, batches, trainer.accumulate_grad_batches / scale)
        if scale > 1 and suspects.has_finite_losses:
            return  # float16's scaler looks for a smaller scale; it leaves the step out itself
        for parameter in pl_module.parameters():
            parameter.grad = None  # AdamW passes over such parameters, their decay included
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._buffers_before)
        self._note(trainer, suspects)
        if self._n_in_row > self.training.max_skipped_steps:
            raise DivergedError(
                f"The loss or its gradients were not finite in {self._n_in_row} steps in a row "
                f"(training.max_skipped_steps is {self.training.max_skipped_steps}), so the run stops. "
                f"{self._advise(pl_module)}"
            )

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        n_skipped = self.n_skipped - self._n_before_epoch
        if n_skipped:
            n_steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
            logger.warning(
                "Epoch %d: %d of %d steps were left out (%.0f %%). Their photos are in %s.",
                trainer.current_epoch + 1, n_skipped, n_steps, 100 * n_skipped / n_steps, self._file,
            )  # fmt: skip

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        for kind, what in (("raw_state_dict", "weight"), ("state_dict", "weight or average")):
            names = non_finite_names(checkpoint.get(kind, {}))
            if names:
                raise DivergedError(
                    f"No checkpoint was written: after step {trainer.global_step} {len(names)} tensors hold a {what} "
                    f"that is not finite, first {names[0]}. {self._advise(pl_module)}"
                )

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "n_skipped": self.n_skipped,
            "n_before_epoch": self._n_before_epoch,
            "n_in_row": self._n_in_row,
            "ids_in_row": self._ids_in_row,
            "broken_in_row": self._broken_in_row,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.n_skipped = state_dict["n_skipped"]
        self._n_before_epoch = state_dict["n_before_epoch"]
        self._n_in_row = state_dict["n_in_row"]
        self._ids_in_row = list(state_dict["ids_in_row"])
        self._broken_in_row = list(state_dict["broken_in_row"])

    @property
    def _file(self) -> Path:
        return self.run_folder / SKIPPED_FILE

    def _note(self, trainer: L.Trainer, suspects: Suspects) -> None:
        self.n_skipped += 1
        self._n_in_row += 1
        self._ids_in_row += suspects.ids
        self._broken_in_row += suspects.broken
        if not trainer.is_global_zero:
            return
        losses = ", ".join(f"{loss:.4g}" for loss in suspects.losses)
        logger.warning(
            "Epoch %d, step %d is left out: loss %s, norm of the gradients %g.%s Photos of the batch: %s.",
            trainer.current_epoch + 1, trainer.global_step + 1, losses, self.gradient_norm,
            f" Pixels or features that are not finite: {name_some(suspects.broken)}." if suspects.broken else "",
            name_some(suspects.ids),
        )  # fmt: skip
        line = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step + 1,
            "loss": losses,  # as text: JSON has no NaN
            "gradient_norm": str(self.gradient_norm),
            "ids": suspects.ids,
            "not_finite": suspects.broken,
        }
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _advise(self, pl_module: L.LightningModule) -> str:
        """What the message of a stop ends with: the photos, the last good checkpoint, and what to try."""
        folder = self.run_folder / "checkpoints"
        whole = next((folder / name for name in (LAST, PREVIOUS, BEST) if (folder / name).is_file()), None)
        spoilt = non_finite_names(dict(pl_module.named_parameters()))
        return (
            (f"Pixels or features not finite: {name_some(self._broken_in_row)}. " if self._broken_in_row else "")
            + (f"Photos of those batches: {name_some(self._ids_in_row)} ({self._file}). " if self._ids_in_row else "")
            + (f"Weights that are not finite: {name_some(spoilt)}. " if spoilt else "")
            + f"The last good checkpoint: {whole or 'none was written yet'}. Look at these photos; lower training.lr "
            f"(it is {self.training.lr:g}); set training.precision to bf16-mixed or 32-true (it is "
            f"{self.training.precision})."
        )


def is_step_skipped(trainer: L.Trainer) -> bool:
    """Whether the latest optimizer step was left out because its numbers were not finite."""
    return any(callback.is_skipped for callback in trainer.callbacks if isinstance(callback, HealthCallback))  # type: ignore[attr-defined]  # Lightning's Trainer declares it elsewhere
