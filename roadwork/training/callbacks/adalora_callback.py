"""AdaLoRA's two parts that peft leaves to the training loop: pruning of ranks and the orthogonality loss."""

from __future__ import annotations

import logging
from typing import Any

import lightning.pytorch as L
import torch
from peft import AdaLoraModel
from torch import Tensor, nn
from typing_extensions import override

from roadwork.core.errors import ConfigError, WiringError
from roadwork.training.callbacks.base import OptimizerStepCallback
from roadwork.training.callbacks.ema_callback import EMACallback
from roadwork.training.lora.adalora_config import stretch_schedule

logger = logging.getLogger(__name__)


class AdaLoraCallback(OptimizerStepCallback):
    """Prunes ranks after each optimizer step, by the schedule of the model's `AdaLoraConfig`.

    Without it no rank is ever pruned. The schedule is stretched to the run's number of steps when training starts.

    Example:
        >>> model = get_peft_model(network, create_adalora_config(rank=8))
        >>> ema = EMACallback(model)
        >>> trainer = L.Trainer(callbacks=[ema, AdaLoraCallback(ema)], accelerator="cpu", logger=False)

    Args:
        ema_callback: its average is pruned too, since averaging would revive the ranks.

    Attributes:
        n_updates: optimizer steps followed, including those before a resume.
    """

    runs_after = (EMACallback,)  # it prunes the average of the step

    def __init__(self, ema_callback: EMACallback | None = None) -> None:
        self.ema_callback = ema_callback
        self.n_updates = 0
        self._restored: dict[str, Any] | None = None
        self._tuner: AdaLoraModel | None = None

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._tuner = find_adalora(pl_module)
        config = _config(self._tuner)
        total_steps = trainer.estimated_stepping_batches
        if total_steps == float("inf"):
            raise ConfigError("AdaLoRA needs the number of training steps; limit them with max_epochs or max_steps.")
        stretch_schedule(config, int(total_steps))
        if self._restored is not None:
            config.rank_pattern = self._restored["rank_pattern"]
            for name, averages in self._restored["importance"].items():
                setattr(self._tuner.rankallocator, name, _on(averages, pl_module.device))
            self._restored = None

    @override
    def on_optimizer_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule, batch_idx: int) -> None:
        tuner = find_adalora(pl_module)
        _zero_unusable_gradients(tuner)
        # global_step is 1 after the first step, so the schedule's last pruning is reached however short its end.
        tuner.update_and_allocate(trainer.global_step)
        if self.ema_callback is not None:
            prune_average(self.ema_callback.model, self.ema_callback.shadow)
        self.n_updates += 1

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        config = _config(find_adalora(pl_module))
        if trainer.global_step < config.total_step - config.tfinal:
            logger.warning(
                "Training ended at step %d of %d, before AdaLoRA had pruned to its target rank.",
                trainer.global_step,
                config.total_step,
            )

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._tuner is None:
            return {}
        allocator = self._tuner.rankallocator
        return {
            "n_updates": self.n_updates,
            "rank_pattern": _config(self._tuner).rank_pattern,
            "importance": {name: dict(getattr(allocator, name)) for name in ("ipt", "exp_avg_ipt", "exp_avg_unc")},
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # The model is not known here: peft's part is restored when training starts.
        self.n_updates = state_dict["n_updates"]
        self._restored = state_dict


def find_adalora(model: nn.Module) -> AdaLoraModel:
    """The AdaLoRA model of peft inside this one.

    Raises:
        WiringError: there is none.
    """
    for module in model.modules():
        if isinstance(module, AdaLoraModel):
            return module
    raise WiringError(f"{type(model).__name__} has no AdaLoRA adapter; apply one with training.adapter=adalora.")


def adalora_orthogonal_loss(model: nn.Module) -> Tensor:
    """The scalar orthogonality term to add to a loss that is computed outside the model.

    orth_reg_weight times the mean over all A and B of ||A A^T - I|| and ||B^T B - I|| (Frobenius): the formula of
    `peft.AdaLoraModel.forward`, which adds it only if it is called directly, with labels.

    Raises:
        WiringError: the model has no AdaLoRA adapter.
    """
    tuner = find_adalora(model)
    grams = [
        p @ p.T if "lora_A" in name else p.T @ p
        for name, p in tuner.named_parameters()
        if ("lora_A" in name or "lora_B" in name) and tuner.trainable_adapter_name in name
    ]
    distances = [torch.linalg.matrix_norm(gram - torch.eye(len(gram), out=torch.empty_like(gram))) for gram in grams]
    loss: Tensor = torch.stack(distances).mean() * _config(tuner).orth_reg_weight
    return loss


@torch.no_grad()
def prune_average(model: nn.Module, shadow: dict[str, Tensor]) -> None:
    """Zeroes the averages of AdaLoRA's singular values where the values themselves are pruned.

    Args:
        model: the averaged model.
        shadow: the average of each trained parameter by its name in `model`; changed in place.

    Raises:
        WiringError: singular values of the model are not averaged.
    """
    values = {name: p for name, p in model.named_parameters() if "lora_E" in name}
    missed = [name for name in values if name not in shadow]
    if missed or not values:
        raise WiringError(
            f"The average does not hold AdaLoRA's singular values ({missed[0] if missed else 'there are none'}); "
            "build EMACallback on the model with its adapter."
        )
    for name, value in values.items():
        shadow[name].masked_fill_((value == 0).to(shadow[name].device), 0)


def _config(tuner: AdaLoraModel) -> Any:
    return tuner.peft_config[tuner.trainable_adapter_name]


@torch.no_grad()
def _zero_unusable_gradients(tuner: AdaLoraModel) -> None:
    """Zeroes missing and non-finite gradients (of a step that float16's scaler skipped).

    One of them would stay in the allocator's averages for good.
    """
    for name, p in tuner.named_parameters():
        if "lora_" in name and tuner.trainable_adapter_name in name:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad.nan_to_num_(0, 0, 0)


def _on(tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}
