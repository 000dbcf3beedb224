"""Matthews correlation over an epoch, in a Lightning Trainer or in your own loop."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override

from roadwork.core.errors import DataError, WiringError
from roadwork.metrics.classification import confusion_from, mcc_from_confusion
from roadwork.training.callbacks.base import EpochCallback
from roadwork.training.distributed import is_rank_zero, reduce_sum


class MCCCallback(EpochCallback):
    """Matthews correlation of the decisions (argmax of the logits) over an epoch.

    In a Lightning Trainer it works by Lightning's hooks: it reads ``logits`` and ``labels`` from what
    ``training_step`` and ``validation_step`` return, sums the counts over all ranks, and logs ``train/mcc``
    (``train/mcc_mixed`` for soft labels, since CutMix and MixUp make it a different metric) and ``val_select/mcc``.
    Your own loop calls :meth:`on_batch_end` and :meth:`on_epoch_end`, which count separately, in this process only.

    Example:
        >>> mcc = MCCCallback()
        >>> mcc.on_batch_end(torch.tensor([[2.0, -1.0], [-1.0, 2.0]]), torch.tensor([0, 1]))
        >>> mcc.on_epoch_end(epoch=0)
        {'mcc': 1.0, 'best_mcc': 1.0}

    Attributes:
        best_mcc: the best so far of ``val_select`` in ``fit`` (without the sanity check) or of ``on_epoch_end``; -1.0
            before the first.
        confusion: (2, 2) counts of the last validation over all ranks; rows are labels, columns decisions.
    """

    def __init__(self) -> None:
        self.best_mcc = -1.0
        self.confusion = torch.zeros(2, 2, dtype=torch.int64)
        self._own_loop = _EpochCounts()
        self._train = _EpochCounts()
        self._val_select = _EpochCounts()

    def on_batch_end(self, outputs: Tensor | Mapping[str, Any], labels: Tensor) -> None:
        """Adds a batch to the counts.

        Args:
            outputs: logits (B, 2), or a mapping or Hugging Face output with ``logits``.
            labels: integers (B,), or soft labels (B, 2), whose argmax counts.

        Raises:
            DataError: another shape or type.
        """
        self._own_loop.add(outputs, labels)

    def on_epoch_end(self, epoch: int) -> dict[str, float]:
        """Returns the epoch's ``{"mcc": ..., "best_mcc": ...}`` and clears the counts.

        Returns:
            The dict; ``{}`` with a warning if no batch was added.

        Raises:
            DataError: a label was neither 0 nor 1.
        """
        counts, self._own_loop = self._own_loop, _EpochCounts()
        mcc = counts.mcc()
        if mcc is None:
            _warn_nothing_counted(f"epoch {epoch}")
            return {}
        self.best_mcc = max(self.best_mcc, mcc)
        return {"mcc": mcc, "best_mcc": self.best_mcc}

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._train = _EpochCounts()

    @override
    def add_train_batch(self, outputs: Any, batch: Any) -> None:
        self._train.add_step("training_step", outputs)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        name = "train/mcc_mixed" if self._train.has_soft_labels else "train/mcc"
        _log_mcc(name, self._train, trainer, pl_module)

    @override
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._val_select = _EpochCounts()

    @override
    def add_validation_batch(self, outputs: Any, batch: Any) -> None:
        self._val_select.add_step("validation_step", outputs)

    @override
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # A few batches with the initial weights: a lucky value would remain the run's best.
        if trainer.sanity_checking:
            return
        mcc = _log_mcc("val_select/mcc", self._val_select, trainer, pl_module)
        self.confusion = self._val_select.confusion()
        if mcc is not None and trainer.state.fn is TrainerFn.FITTING:
            self.best_mcc = max(self.best_mcc, mcc)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best_mcc": self.best_mcc, "train": self._train.state_dict(self._n_processes)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_mcc = state_dict["best_mcc"]
        self._train.load_state_dict(state_dict["train"])  # an epoch may resume in its middle


class _EpochCounts:
    """2x2 counts of one epoch, on the batches' device, so that no batch waits for the host."""

    def __init__(self) -> None:
        self.has_soft_labels = False
        # The flattened 2x2 counts and the number of rows: one tensor is one reduction over the ranks.
        self._counts = torch.zeros(5, dtype=torch.int64)

    def add(self, outputs: Any, labels: Any) -> None:
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs
        _check_shapes(logits, labels)
        self.has_soft_labels |= labels.ndim == 2
        decided = labels.argmax(dim=1) if labels.ndim == 2 else labels
        confusion = confusion_from(logits.argmax(dim=1), decided.to(logits.device))
        rows = torch.full((1,), len(logits), device=logits.device)
        self._counts = self._counts.to(logits.device) + torch.cat([confusion.flatten(), rows])

    def add_step(self, step: str, outputs: Any) -> None:
        """Adds what a Lightning step returned."""
        if not isinstance(outputs, Mapping) or not {"logits", "labels"} <= outputs.keys():
            keys = sorted(outputs) if isinstance(outputs, Mapping) else _describe(outputs)
            raise WiringError(
                f"{step} returned {keys}; MCCCallback reads logits and labels from it. "
                'Return {"loss": loss, "logits": logits.detach(), "labels": labels}.'
            )
        self.add(outputs, outputs["labels"])

    def state_dict(self, n_processes: int) -> dict[str, Any]:
        return {"counts": reduce_sum(self._counts, n_processes), "has_soft_labels": self.has_soft_labels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._counts = state["counts"] * is_rank_zero()  # the sum over ranks; only rank 0 keeps it
        self.has_soft_labels = state["has_soft_labels"]

    def sum_over_ranks(self, trainer: L.Trainer, device: torch.device) -> None:
        self._counts = trainer.strategy.reduce(self._counts.to(device), reduce_op="sum")

    def confusion(self) -> Tensor:
        return self._counts[:4].reshape(2, 2).cpu()

    def mcc(self) -> float | None:
        """The MCC, or None if no row was counted."""
        *confusion, rows = self._counts.tolist()
        if sum(confusion) != rows:
            raise DataError(
                f"{rows - sum(confusion)} of {rows} labels are neither 0 nor 1; MCC needs 0 (None) and 1 (Roadwork)."
            )
        return mcc_from_confusion(self._counts[:4]) if rows else None


def _check_shapes(logits: Any, labels: Any) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] != 2:
        raise DataError(
            f"outputs are {_describe(logits)}; MCC needs logits (B, 2), or a mapping with them as 'logits'."
        )
    is_hard = isinstance(labels, Tensor) and labels.shape == logits.shape[:1] and not labels.is_floating_point()
    is_soft = isinstance(labels, Tensor) and labels.shape == logits.shape and labels.is_floating_point()
    if not (is_hard or is_soft):
        raise DataError(
            f"labels are {_describe(labels)} for {len(logits)} rows of logits; "
            "allowed: integers (B,), or soft labels (B, 2) of floats."
        )


def _describe(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _warn_nothing_counted(where: str) -> None:
    warnings.warn(f"No batch was counted for {where}, so it has no MCC.", RuntimeWarning, stacklevel=3)


def _log_mcc(name: str, counts: _EpochCounts, trainer: L.Trainer, pl_module: L.LightningModule) -> float | None:
    counts.sum_over_ranks(trainer, pl_module.device)
    mcc = counts.mcc()
    if mcc is None:
        _warn_nothing_counted(name)
    else:
        # Equal on all ranks already; without sync_dist Lightning warns.
        pl_module.log(name, mcc, prog_bar=True, sync_dist=True)
    return mcc
