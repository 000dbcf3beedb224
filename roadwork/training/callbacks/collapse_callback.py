"""Predictions that say the same of every photo, for a whole validation."""

from __future__ import annotations

import logging
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from typing_extensions import override

from roadwork.settings import TrainingSettings
from roadwork.training.nan_guard import gather, name_some, row_ids

logger = logging.getLogger(__name__)

# Validations in a row after which the warning says what to try. The first epochs of a long warm-up can have two.
LOUDER_AFTER = 3
NAMES = ("None", "Roadwork")


class CollapseCallback(Callback):
    """Warns where all photos of `val_select` are given one class though their labels have both.

    MCC is 0 then, as it is for guesses: only the counts and the spread of the probabilities tell the two apart.
    Photos whose logits are not finite are named, and not counted. The sanity check before training does not count.

    Args:
        training: its learning rate is named in the advice.

    Attributes:
        n_in_row: validations in a row with one class alone, up to now.
    """

    def __init__(self, training: TrainingSettings) -> None:
        self.training = training
        self.n_in_row = 0
        # Rows, those labelled Roadwork, those said to be Roadwork, the sum of probabilities and of their squares, and
        # the rows whose logits are not finite.
        self._sums = torch.zeros(6, dtype=torch.float64)
        self._seen: list[tuple[Tensor, Tensor]] = []

    @override
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._sums = torch.zeros(6, dtype=torch.float64)
        self._seen = []

    @override
    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if outputs is None:  # other ranks' rows
            return
        logits, labels = outputs["logits"], outputs["labels"]  # type: ignore[index]  # a mapping
        is_finite = torch.isfinite(logits).all(dim=1)
        p = logits.double().softmax(dim=1)[:, 1].masked_fill(~is_finite, 0)
        sums = (is_finite, is_finite & (labels == 1), is_finite & (logits.argmax(dim=1) == 1), p, p**2, ~is_finite)
        self._sums = self._sums.to(p.device) + torch.stack([values.double().sum() for values in sums])
        self._seen.append((batch["index"], is_finite))

    @override
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn is not TrainerFn.FITTING:
            return
        sums = trainer.strategy.reduce(self._sums.to(pl_module.device), reduce_op="sum")
        n, n_labelled, n_said, p, p_squared, n_not_finite = sums.tolist()
        epoch = trainer.current_epoch + 1
        if n_not_finite:
            own = [row_ids(trainer, rows[~is_finite]) for rows, is_finite in self._seen]
            ids = [row for batch in gather(trainer, own) for row in batch]
            logger.warning(
                "Epoch %d: the logits of %d of %d photos of val_select are not finite: %s.",
                epoch, n_not_finite, n + n_not_finite, name_some(ids),
            )  # fmt: skip
        if not (0 < n_labelled < n and n_said in {0, n}):
            self.n_in_row = 0
            return
        self.n_in_row += 1
        said = int(n_said > 0)
        n_other = n - n_labelled if said else n_labelled
        mean = p / n
        logger.warning(
            "Epoch %d: all %d photos of val_select are said to be %s, though %d (%.0f %%) are %s. Their probability of "
            "Roadwork is %.4f, with a standard deviation of %.1e.",
            epoch, n, NAMES[said], n_other, 100 * n_other / n, NAMES[1 - said],
            mean, max(0.0, p_squared / n - mean**2) ** 0.5,
        )  # fmt: skip
        if self.n_in_row % LOUDER_AFTER == 0:
            logger.error(
                "%d validations in a row gave one class alone: training has most likely collapsed. Lower training.lr "
                "(it is %g) or raise training.warmup; see that the labels of training are right, and that both classes "
                "are drawn (training.loss=balanced); try a pretrained network, or no augmentation.",
                self.n_in_row, self.training.lr,
            )  # fmt: skip

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"n_in_row": self.n_in_row}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.n_in_row = state_dict["n_in_row"]
