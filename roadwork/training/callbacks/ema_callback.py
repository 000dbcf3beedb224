"""Exponential moving average of a model's weights, in a Lightning Trainer or in your own loop."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from typing_extensions import override

from roadwork.core.errors import ConfigError, WiringError
from roadwork.training.callbacks.base import OptimizerStepCallback, StepState

logger = logging.getLogger(__name__)


class EMACallback(OptimizerStepCallback):
    """Averages the weights: ``shadow = decay * shadow + (1 - decay) * weights`` at each :meth:`update`.

    In a Lightning Trainer it updates after each optimizer step, and validation, test and prediction see the average.
    A checkpoint's ``state_dict`` holds the average, and its ``raw_state_dict`` the weights as trained, from which
    ``fit(ckpt_path=...)`` resumes exactly. (Lightning calls no callback for ``save_weights_only`` checkpoints: they
    hold the raw weights.) Your own loop calls :meth:`update`, :meth:`apply_shadow` and :meth:`restore`.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> ema = EMACallback(model, decay=0.9)
        >>> before = model.weight.detach().clone()
        >>> _ = model.weight.data.add_(1.0)  # an optimizer step
        >>> ema.update()
        >>> torch.allclose(ema.shadow["weight"], before + 0.1)
        True

    Args:
        model: complete, with its adapters. Frozen parameters do not change, so they have no average.
        decay: weight of the past, in [0, 1).
        warmup: use ``min(decay, (1 + t) / (10 + t))`` after ``t`` updates, as TensorFlow's ExponentialMovingAverage,
            so that the random initial weights are soon forgotten.

    Attributes:
        shadow: the average of each trainable parameter by its name in ``model``, in its dtype (float32 for halves).
        shadow_buffers: the average of each saved floating-point buffer (BatchNorm's statistics).
        n_updates: updates so far.

    Raises:
        ConfigError: the decay is outside [0, 1).
        WiringError: no parameter of the model is trainable.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, warmup: bool = False) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"training.ema_decay is {decay}; it must be at least 0 and below 1.")
        self.model = model
        self.decay = decay
        self.warmup = warmup
        self.n_updates = 0
        saved = model.state_dict().keys()
        self.shadow = {name: _average_of(p) for name, p in model.named_parameters() if p.requires_grad}
        self.shadow_buffers = {
            name: _average_of(b) for name, b in model.named_buffers() if name in saved and b.is_floating_point()
        }
        if not self.shadow:
            raise WiringError(
                "No parameter of the model requires a gradient: there is nothing to average. Unfreeze some."
            )
        self._raw: dict[str, Tensor] | None = None

    def update(self) -> None:
        """Moves the average towards the current weights.

        Raises:
            WiringError: the average is applied, or the model has lost a parameter.
        """
        if self._raw is not None:
            raise WiringError("update() while the average is applied would average itself; call restore() first.")
        t = self.n_updates
        decay = min(self.decay, (1 + t) / (10 + t)) if self.warmup else self.decay
        with self._aligned() as (averages, weights):
            present = [weights[name].to(average.dtype) for name, average in averages.items()]
            average_all = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch gives it no types
            average_all(list(averages.values()), present, t)
        self.n_updates += 1

    def apply_shadow(self) -> None:
        """Copies the average into the model, and keeps the raw weights for :meth:`restore`.

        Raises:
            WiringError: it is applied already.
        """
        if self._raw is not None:
            raise WiringError("The average is applied already; call restore() before apply_shadow().")
        with self._aligned() as (averages, weights):
            self._raw = {name: weight.detach().clone() for name, weight in weights.items()}
            for name, average in averages.items():
                weights[name].copy_(average)

    def restore(self) -> None:
        """Restores the raw weights, bit for bit.

        Raises:
            WiringError: :meth:`apply_shadow` was not called before.
        """
        if self._raw is None:
            raise WiringError("The raw weights are in place; restore() needs an apply_shadow() before.")
        with self._aligned() as (_, weights):
            for name, raw in self._raw.items():
                weights[name].copy_(raw)
        self._raw = None

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        averaged = {id(weight) for weight in self._weights().values()}
        missed = [name for name, p in pl_module.named_parameters() if p.requires_grad and id(p) not in averaged]
        if missed:
            raise WiringError(
                f"EMACallback does not average {len(missed)} trainable parameters, first {missed[0]}. "
                "Build it on the model that is trained, after adapters are added and layers unfrozen."
            )
        if self.n_updates == 0:
            # Weights may have been loaded since the callback was built.
            with self._aligned() as (averages, weights):
                for name, average in averages.items():
                    average.copy_(weights[name])

    @override
    def on_optimizer_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule, batch_idx: int) -> None:
        if not getattr(pl_module, "step_state", StepState()).is_skipped:
            self.update()

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin_evaluation()

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end_evaluation()

    @override
    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin_evaluation()

    @override
    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end_evaluation()

    @override
    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin_evaluation()

    @override
    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end_evaluation()

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._end_evaluation()

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.n_updates == 0:
            return
        # The averages go under state_dict, whichever of the two is in the model now.
        averages, raw = self.shadow | self.shadow_buffers, self._raw or self._weights()
        names = self._names_by_key(pl_module)
        checkpoint["raw_state_dict"] = {key: raw[name].detach() for key, name in names.items()}
        checkpoint["state_dict"].update({key: averages[name] for key, name in names.items()})

    @override
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if "raw_state_dict" not in checkpoint:
            logger.info("The checkpoint has no averaged weights; the average restarts from its weights.")
            self.n_updates = 0
            return
        with self._aligned() as (averages, _):
            for key, name in self._names_by_key(pl_module).items():
                averages[name].copy_(checkpoint["state_dict"][key])
        # Only training continues from the raw weights; elsewhere the model keeps the average.
        if trainer.state.fn is TrainerFn.FITTING:
            pl_module.load_state_dict(checkpoint["raw_state_dict"], strict=False)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"n_updates": self.n_updates}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.n_updates = state_dict["n_updates"]

    def _begin_evaluation(self) -> None:
        # Before the first update the average holds the weights from when the callback was built.
        if self.n_updates > 0:
            self.apply_shadow()

    def _end_evaluation(self) -> None:
        if self._raw is not None:
            self.restore()

    def _weights(self) -> dict[str, Tensor]:
        """The model's current tensors that have an average. Looked up anew: ``model.to`` replaces buffers."""
        tensors: dict[str, Tensor] = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        lost = [name for name in self.shadow | self.shadow_buffers if name not in tensors]
        if lost:
            raise WiringError(
                f"The model has lost {len(lost)} of the averaged tensors, first {lost[0]}. "
                "Build EMACallback after adapters are added."
            )
        return {name: tensors[name] for name in self.shadow | self.shadow_buffers}

    @contextmanager
    def _aligned(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """Averages and weights by name, on the same devices and writable.

        Lightning evaluates in inference mode; a tensor made there could not be updated in training.
        """
        with torch.inference_mode(mode=False), torch.no_grad():
            weights = self._weights()
            self.shadow = {name: average.to(weights[name].device) for name, average in self.shadow.items()}
            self.shadow_buffers = {name: b.to(weights[name].device) for name, b in self.shadow_buffers.items()}
            yield self.shadow | self.shadow_buffers, weights

    def _names_by_key(self, pl_module: L.LightningModule) -> dict[str, str]:
        """Key in the LightningModule's state_dict -> averaged tensor's name in ``model``; a tied one has several."""
        names = {id(weight): name for name, weight in self._weights().items()}
        state = pl_module.state_dict(keep_vars=True)
        return {key: names[id(tensor)] for key, tensor in state.items() if id(tensor) in names}


def _average_of(tensor: Tensor) -> Tensor:
    """A copy to average in, in float32 for halves: half precision would lose steps of 1 - decay."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
