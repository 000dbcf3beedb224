"""Monitors a fit: skips non-finite steps, and reports training that diverges, collapses or cannot learn."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from roadwork.core.errors import DivergedError, WiringError
from roadwork.data.samplers.summary import Repeats
from roadwork.runs.run import BEST, LAST, PREVIOUS
from roadwork.settings import TrainingSettings
from roadwork.training.callbacks.base import EpochCallback, StepState
from roadwork.training.callbacks.ema_callback import EMACallback
from roadwork.training.checkpoints import non_finite_names
from roadwork.training.distributed import gather

logger = logging.getLogger(__name__)

SKIPPED_FILE = "skipped_steps.jsonl"

# Consecutive collapsed validations between two errors. The first epochs of a long warm-up can have two.
COLLAPSE_LIMIT = 3
CLASSES = ("None", "Roadwork")

# Weights whose norms all change by less over an epoch count as unchanged; float32 resolves 1e-7 near 1.
MIN_NORM_CHANGE = 1e-12


class TrainingMonitorCallback(EpochCallback):
    """Skips non-finite optimizer steps, and stops a run that diverges or cannot learn.

    - A step with a non-finite loss or gradient changes no weight, optimizer state, buffer or average. The log and
      `skipped_steps.jsonl` name its photos. `global_step`, the learning rate and AdaLoRA's schedule continue. With
      `training.accumulate` all batches of the step are skipped.
    - More than `training.max_skipped_steps` consecutive skipped steps stop the run. One broken photo comes back in each
      epoch and does no harm; a diverged network never gives a finite loss again.
    - No checkpoint is written with non-finite weights or averages.
    - An epoch in which all gradients or all learning rates were 0, or no weight changed, stops the run. A learning rate
      of 0 in the run's first and last step is a usual schedule.
    - A validation that predicts one class for all photos is reported: its MCC is 0, as for random guesses.

    Example:
        >>> monitor = TrainingMonitorCallback(TrainingSettings(max_skipped_steps=3), Path("outputs/demo/1"))
        >>> ema = EMACallback(nn.Linear(4, 2))
        >>> trainer = L.Trainer(callbacks=[ema, monitor], accelerator="cpu", logger=False)

    Args:
        training: `max_skipped_steps`, and the settings that the messages name.
        run_folder: gets `skipped_steps.jsonl`, one line per skipped step; contains `checkpoints`.

    Attributes:
        n_skipped: steps skipped so far, including those before a resume.
        n_collapsed: consecutive validations, up to now, that predicted a single class.
    """

    runs_after = (EMACallback,)  # it checks the averages that EMA puts into a checkpoint

    _SAVED = (
        *("n_skipped", "n_collapsed", "_n_skipped_before_epoch", "_n_in_row"),
        *("_ids_in_row", "_broken_ids_in_row", "_counts", "_norms"),
    )

    def __init__(self, training: TrainingSettings, run_folder: Path) -> None:
        self.training = training
        self.run_folder = run_folder
        self.n_skipped = 0
        self.n_collapsed = 0
        self._n_skipped_before_epoch = 0
        self._n_in_row = 0
        self._ids_in_row: list[str] = []
        self._broken_ids_in_row: list[str] = []
        self._batches: list[_Batch] = []
        self._buffers: list[Tensor] = []
        self._buffers_before: list[Tensor] = []
        self._n_steps = math.inf
        self._counts = _no_counts()  # of the epoch's steps that were not skipped
        self._norms: list[float] = []
        # Sums over the photos of a validation. With finite logits: all, labelled Roadwork, predicted Roadwork,
        # probability of Roadwork, its square. With non-finite logits: all.
        self._sums = torch.zeros(6, dtype=torch.float64)
        self._broken_rows: list[Tensor] = []

    # Non-finite steps

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        state = pl_module.state_dict(keep_vars=True).values()
        self._buffers = [tensor for tensor in state if not isinstance(tensor, nn.Parameter)]
        self._buffers_before = [buffer.clone() for buffer in self._buffers]
        self._n_steps = trainer.estimated_stepping_batches  # Lightning computes it anew at each call
        datamodule = trainer.datamodule  # type: ignore[attr-defined]  # Lightning's Trainer lacks it
        n_rows = len(datamodule.datasets["train"])
        repeats = Repeats.of(datamodule.train_sampler, n_rows, trainer.max_epochs or 1)
        logger.log(logging.WARNING if repeats.are_too_many else logging.INFO, "%s", repeats)

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._n_skipped_before_epoch = self.n_skipped
        self._counts = _no_counts()
        self._norms = _parameter_norms(pl_module)

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._batches and self._buffers:
            torch._foreach_copy_(self._buffers_before, self._buffers)  # one kernel for all of them
        self._batches.append(_Batch.of(batch))

    @override
    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self._batches[-1].loss = loss.detach()

    @override
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        batches, self._batches = self._batches, []
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        # This waits once per step for a GPU's backward pass. The GPU then idles while the host queues the optimizer and
        # the next forward pass, which is short compared with a step of a large network. AdamW's own `found_inf` would
        # skip a step without the host, but average, buffers and counts would be reset a step too late, when
        # checkpoints may contain them.
        norm = float(torch.nn.utils.get_total_norm(gradients))
        step: StepState = pl_module.step_state  # type: ignore[assignment]  # RoadworkClassifier's
        step.gradient_norm, step.is_skipped = norm, not math.isfinite(norm)
        if step.is_skipped:
            self._skip_step(trainer, pl_module, batches, norm)
        else:
            self._n_in_row, self._ids_in_row, self._broken_ids_in_row = 0, [], []
            self._count_step(trainer.global_step, [float(group["lr"]) for group in optimizer.param_groups], norm)

    def _skip_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batches: list[_Batch], gradient_norm: float
    ) -> None:
        # All ranks come here together: they have the same gradients.
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = scaler.get_scale() if scaler else 1.0
        losses, ids, broken_ids = _gather_causes(trainer, batches, trainer.accumulate_grad_batches / scale)
        if scale > 1 and all(map(math.isfinite, losses)):
            return  # float16's scaler looks for a smaller scale, and skips the step itself
        for parameter in pl_module.parameters():
            parameter.grad = None  # AdamW passes over such parameters, their decay included
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._buffers_before)
        self.n_skipped += 1
        self._n_in_row += 1
        self._ids_in_row += ids
        self._broken_ids_in_row += broken_ids
        if trainer.is_global_zero:
            self._log_skipped_step(trainer, losses, ids, broken_ids, gradient_norm)
        if self._n_in_row > self.training.max_skipped_steps:
            raise DivergedError(
                f"The loss or its gradients were not finite in {self._n_in_row} consecutive steps "
                f"(training.max_skipped_steps is {self.training.max_skipped_steps}), so the run stops. "
                f"{self._advice(pl_module)}"
            )

    def _log_skipped_step(
        self, trainer: L.Trainer, losses: list[float], ids: list[str], broken_ids: list[str], gradient_norm: float
    ) -> None:
        shown = ", ".join(f"{loss:.4g}" for loss in losses)
        logger.warning(
            "Epoch %d, step %d is skipped: loss %s, gradient norm %g.%s Photos of the batch: %s.",
            trainer.current_epoch + 1, trainer.global_step + 1, shown, gradient_norm,
            f" Pixels or features not finite: {name_some(broken_ids)}." if broken_ids else "",
            name_some(ids),
        )  # fmt: skip
        line = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step + 1,
            "loss": shown,  # as text: JSON has no NaN
            "gradient_norm": str(gradient_norm),
            "ids": ids,
            "not_finite": broken_ids,
        }
        with (self.run_folder / SKIPPED_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        for kind, what in (("raw_state_dict", "weight"), ("state_dict", "weight or average")):
            names = non_finite_names(checkpoint.get(kind, {}))
            if names:
                raise DivergedError(
                    f"No checkpoint was written: after step {trainer.global_step} {len(names)} tensors hold a "
                    f"non-finite {what}, first {names[0]}. {self._advice(pl_module)}"
                )

    def _advice(self, pl_module: L.LightningModule) -> str:
        """The end of a stop's message: the photos, the last good checkpoint, and what to try."""
        folder = self.run_folder / "checkpoints"
        good = next((folder / name for name in (LAST, PREVIOUS, BEST) if (folder / name).is_file()), "none yet")
        broken, ids = self._broken_ids_in_row, self._ids_in_row
        weights = non_finite_names(dict(pl_module.named_parameters()))
        return (
            (f"Pixels or features not finite: {name_some(broken)}. " if broken else "")
            + (f"Photos of those batches: {name_some(ids)} ({self.run_folder / SKIPPED_FILE}). " if ids else "")
            + (f"Non-finite weights: {name_some(weights)}. " if weights else "")
            + f"The last good checkpoint: {good}. Check these photos; lower training.lr (it is "
            f"{self.training.lr:g}); set training.precision to bf16-mixed or 32-true (it is {self.training.precision})."
        )

    # Steps that cannot learn

    def _count_step(self, step: int, learning_rates: list[float], gradient_norm: float) -> None:
        counts = self._counts
        counts["steps"] += 1
        if any(learning_rates):
            counts["with_lr"] += 1
        elif 0 < step < self._n_steps - 1:
            counts["zero_lr"] += 1
            if counts["zero_lr"] == 1:
                logger.warning("Step %d of %.0f has a learning rate of 0.", step + 1, self._n_steps)
        if gradient_norm == 0:
            counts["zero_gradients"] += 1
            if counts["zero_gradients"] == 1:
                logger.warning("Every gradient is 0 in step %d.", step + 1)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        n_skipped = self.n_skipped - self._n_skipped_before_epoch
        if n_skipped:
            n_steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
            logger.warning(
                "Epoch %d: %d of %d steps were skipped (%.0f %%). Their photos are listed in %s.",
                epoch, n_skipped, n_steps, 100 * n_skipped / n_steps, self.run_folder / SKIPPED_FILE,
            )  # fmt: skip
        steps, zero_lr, zero_gradients = (self._counts[name] for name in ("steps", "zero_lr", "zero_gradients"))
        if steps == 0:
            return
        if zero_gradients == steps:
            raise WiringError(
                f"Every gradient was 0 in all {steps} steps of epoch {epoch}, so nothing can be learned. The "
                "loss does not depend on the trained parameters: check the network (dead units), training.loss, and "
                "which layers are frozen."
            )
        if zero_lr and not self._counts["with_lr"]:
            raise WiringError(
                f"The learning rate was 0 in all {steps} steps of epoch {epoch}, so nothing can be learned. Fix "
                "the schedule that configure_optimizers returns."
            )
        norms = _parameter_norms(pl_module)
        if len(norms) == len(self._norms) and np.abs(np.subtract(norms, self._norms)).max() < MIN_NORM_CHANGE:
            raise WiringError(
                f"No weight changed in the {steps} steps of epoch {epoch}, though "
                f"{steps - zero_gradients} had gradients, so nothing can be learned. Either the optimizer "
                f"does not hold the network's weights, or training.lr ({self.training.lr:g}) is too small for their "
                "precision: raise it."
            )
        if zero_lr or zero_gradients:
            logger.warning(
                "Epoch %d: %d of %d steps had a learning rate of 0, and %d had zero gradients.",
                epoch, zero_lr, steps, zero_gradients,
            )  # fmt: skip

    # Collapsed predictions

    @override
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._sums, self._broken_rows = torch.zeros(6, dtype=torch.float64), []

    @override
    def add_validation_batch(self, outputs: Any, batch: Any) -> None:
        logits, labels = outputs["logits"], outputs["labels"]
        is_finite = torch.isfinite(logits).all(dim=1)
        p = logits.double().softmax(dim=1)[:, 1].masked_fill(~is_finite, 0)
        sums = (is_finite, is_finite & (labels == 1), is_finite & (logits.argmax(dim=1) == 1), p, p**2, ~is_finite)
        self._sums = self._sums.to(p.device) + torch.stack([values.double().sum() for values in sums])
        self._broken_rows.append(batch["index"][~is_finite])

    @override
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn is not TrainerFn.FITTING:
            return
        sums = trainer.strategy.reduce(self._sums.to(pl_module.device), reduce_op="sum")
        n, n_labelled, n_predicted, p, p_squared, n_not_finite = sums.tolist()
        epoch = trainer.current_epoch + 1
        if n_not_finite:
            ids = gather(trainer, [row for rows in self._broken_rows for row in _row_ids(trainer, rows)])
            logger.warning(
                "Epoch %d: %d of %d val_select photos have non-finite logits: %s.",
                epoch, n_not_finite, n + n_not_finite, name_some(ids),
            )  # fmt: skip
        if not (0 < n_labelled < n and n_predicted in {0, n}):
            self.n_collapsed = 0
            return
        self.n_collapsed += 1
        predicted = int(n_predicted > 0)
        n_wrong = n - n_labelled if predicted else n_labelled
        mean = p / n
        logger.warning(
            "Epoch %d: the model predicts %s for all %d val_select photos, but %d (%.0f %%) are labelled %s. The "
            "probability of Roadwork has a mean of %.4f and a standard deviation of %.1e.",
            epoch, CLASSES[predicted], n, n_wrong, 100 * n_wrong / n, CLASSES[1 - predicted],
            mean, max(0.0, p_squared / n - mean**2) ** 0.5,
        )  # fmt: skip
        if self.n_collapsed % COLLAPSE_LIMIT == 0:
            logger.error(
                "Training has most likely collapsed: %d consecutive validations predicted a single class. Lower "
                "training.lr (it is %g) or raise training.warmup; check the training labels, and that both classes are "
                "drawn (training.loss=balanced); try a pretrained network, or data.augmentation.train.mode=none.",
                self.n_collapsed, self.training.lr,
            )  # fmt: skip

    # State

    @override
    def state_dict(self) -> dict[str, Any]:
        return {name: copy(getattr(self, name)) for name in self._SAVED}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in self._SAVED:
            setattr(self, name, copy(state_dict[name]))


@dataclass
class _Batch:
    """A training batch until its optimizer step: small tensors on its device, without its pixels.

    Attributes:
        rows: (B,) rows of the data module's table.
        is_finite: (B,) whether all pixels or features of a row are.
        loss: scalar, as the backward pass got it: divided by the step's number of batches, times the loss scale.
    """

    rows: Tensor
    is_finite: Tensor
    loss: Tensor

    @classmethod
    def of(cls, batch: dict[str, Any]) -> _Batch:
        values = batch["features"] if "features" in batch else batch["image"]
        sums = values.detach().sum(dim=tuple(range(1, values.ndim)), dtype=torch.float32)
        return cls(batch["index"], torch.isfinite(sums), torch.zeros((), device=values.device))


def _no_counts() -> dict[str, int]:
    return {"steps": 0, "with_lr": 0, "zero_lr": 0, "zero_gradients": 0}


def _gather_causes(
    trainer: L.Trainer, batches: list[_Batch], loss_factor: float
) -> tuple[list[float], list[str], list[str]]:
    """The batches behind a non-finite step, over all ranks, which must call this together.

    Args:
        trainer: its data module's table names the rows.
        batches: this rank's.
        loss_factor: a batch's loss is the loss of its backward pass times this.

    Returns:
        The losses of all batches; the ids of the rows in batches with a non-finite loss, or in all batches where every
        loss is finite; and those ids whose pixels or features are not finite.
    """
    own = [
        (float(b.loss) * loss_factor, _row_ids(trainer, b.rows), _row_ids(trainer, b.rows[~b.is_finite]))
        for b in batches
    ]
    everyone = gather(trainer, own)
    causes = [batch for batch in everyone if not math.isfinite(batch[0])] or everyone
    losses = [loss for loss, _, _ in everyone]
    return losses, [row for _, ids, _ in causes for row in ids], [row for _, _, broken in causes for row in broken]


def _row_ids(trainer: L.Trainer, rows: Tensor) -> list[str]:
    """The ids of rows of the data module's table: their photos' names."""
    ids = trainer.datamodule.table.ids  # type: ignore[attr-defined]  # Lightning's Trainer lacks it
    return [str(ids[row]) for row in rows.tolist()]


@torch.no_grad()
def _parameter_norms(pl_module: L.LightningModule) -> list[float]:
    """The float64 norm of each trained parameter. Comparing norms is cheaper than a copy of the weights."""
    trained = [p for p in pl_module.parameters() if p.requires_grad]
    return torch.stack([torch.linalg.vector_norm(p, dtype=torch.float64) for p in trained]).tolist()


def name_some(ids: Iterable[str], limit: int = 8) -> str:
    """The first distinct ids, and how many more there are."""
    distinct = list(dict.fromkeys(ids))
    more = len(distinct) - limit
    return ", ".join(distinct[:limit]) + (f" and {more} more" if more > 0 else "")
