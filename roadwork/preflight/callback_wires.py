"""The rows of the wiring table on callbacks: their calls, MCC, the average, and AdaLoRA's pruning."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, matthews_corrcoef

from roadwork.preflight.observations import Observations, WireRow
from roadwork.preflight.probe import Weights
from roadwork.training.trainers.base_trainer import MONITOR

# An average kept in float32 against its replay in float64, relative above 1.
EMA_TOLERANCE = 1e-5


def callback_rows(seen: Observations) -> Iterator[WireRow]:
    """Each callback's number of calls, then what it did."""
    for callback, counter in seen.calls.items():
        wanted = {
            "on_train_batch_end": seen.n_train,
            "on_validation_batch_end": seen.n_validation,
            "on_validation_start": 1,
            "on_validation_end": 1,
        }
        yield WireRow(
            f"{type(callback).__name__} called",
            ", ".join(f"{name} {count} times" for name, count in counter.calls.items()),
            all(count == wanted[name] for name, count in counter.calls.items()),
            f"register it in the Trainer; Lightning calls its hooks {wanted} times here",
        )
    yield _mcc_row(seen)
    if seen.trainer.settings.training.adapter == "adalora":
        yield _adalora_row(seen)
    if hasattr(seen.trainer, "ema_callback"):
        yield _ema_average_row(seen)
        yield _ema_swap_row(seen)


def _mcc_row(seen: Observations) -> WireRow:
    """Against scikit-learn; the counts too, since where one class is all that is said MCC is 0 whatever the labels."""
    labels = torch.cat(seen.probe.validation.labels).numpy()
    decisions = torch.cat(seen.probe.validation.logits).argmax(dim=1).numpy()
    with warnings.catch_warnings():  # scikit-learn's, where labels and decisions are all of one class
        warnings.filterwarnings("ignore", "A single label was found")
        reference = float(matthews_corrcoef(labels, decisions))
    counts = confusion_matrix(labels, decisions, labels=[0, 1])
    logged = seen.logged.get(MONITOR)
    counted = seen.trainer.mcc_callback.confusion.numpy()
    return WireRow(
        "MCC",
        f"{MONITOR} logged as {logged if logged is None else f'{logged:.6f}'} from the counts {counted.tolist()}; "
        f"scikit-learn on the same {len(labels)} rows: {reference:.6f}, {counts.tolist()}",
        logged is not None and abs(logged - reference) < 1e-6 and np.array_equal(counted, counts),  # logged as float32
        "MCCCallback must be registered, and validation_step return logits and labels",
    )


def _ema_average_row(seen: Observations) -> WireRow:
    ema = seen.trainer.ema_callback
    averages = ema.shadow | ema.shadow_buffers
    worst = _largest_difference(averages, _replay_ema(seen))
    model = seen.probe.model
    moving = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    saved = model.state_dict().keys()
    moving |= {name for name, b in model.named_buffers() if name in saved and b.is_floating_point()}
    steps = len(seen.probe.weights_after_step) - 1
    return WireRow(
        "EMA average",
        f"{ema.n_updates} updates in {steps} steps; {len(averages)} averages of {len(moving)} trainable tensors and "
        f"float buffers differ from a float64 replay by at most {worst:.0e}",
        worst < EMA_TOLERANCE and moving <= set(averages) and ema.n_updates == steps,
        "EMACallback must update after every optimizer step, with training.ema_decay",
    )


def _adalora_row(seen: Observations) -> WireRow:
    """Ranks are pruned where singular values, which start at zero, are zero again after steps that moved them."""
    history = [{n: v for n, v in weights.items() if "lora_E" in n} for weights in seen.probe.weights_after_step]
    ranks = sum(v.numel() for v in history[-1].values())
    alive = sum(int((v != 0).sum()) for v in history[-1].values())
    return WireRow(
        "AdaLoRA",
        f"{alive} of {ranks} ranks are left after {len(history) - 1} steps",
        0 < alive < ranks,
        "AdaLoraCallback must allocate ranks after every optimizer step",
    )


def _replay_ema(seen: Observations) -> Weights:
    """The average by its formula, from the weights that the probe saw after each step."""
    training = seen.trainer.settings.training
    history = seen.probe.weights_after_step
    average = {name: value.double() for name, value in history[0].items() if value.is_floating_point()}
    for step, weights in enumerate(history[1:]):
        decay = min(training.ema_decay, (1 + step) / (10 + step)) if training.ema_warmup else training.ema_decay
        average = {name: decay * past + (1 - decay) * weights[name].double() for name, past in average.items()}
    if training.adapter == "adalora":  # a pruned rank is pruned in the average too
        average = {n: v * (history[-1][n] != 0) if "lora_E" in n else v for n, v in average.items()}
    return average


def _largest_difference(averages: Weights, references: Weights) -> float:
    """Infinite where a reference is missing."""
    return max(
        float(((v.double().cpu() - references[n].double()).abs() / (1 + references[n].double().abs())).max())
        if n in references
        else math.inf
        for n, v in averages.items()
    )


def _ema_swap_row(seen: Observations) -> WireRow:
    probe = seen.probe
    worst = _largest_difference(
        seen.trainer.ema_callback.shadow | seen.trainer.ema_callback.shadow_buffers, probe.weights_in_validation
    )
    restored = all(
        torch.equal(v, probe.weights_after_validation.get(n, torch.empty(0)))
        for n, v in probe.weights_after_step[-1].items()
    )
    return WireRow(
        "EMA in validation",
        f"validation ran on weights within {worst:.0e} of the average; "
        f"after it the raw weights were {'bit-equal' if restored else 'NOT what they had been'}",
        worst < EMA_TOLERANCE and restored,
        "EMACallback must swap in the average for validation and restore the raw weights after it",
    )
