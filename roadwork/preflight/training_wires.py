"""Checks of the training for the wiring table: callbacks, EMA, adapter, loss, frozen backbone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from peft import PeftModel
from sklearn.metrics import confusion_matrix, matthews_corrcoef
from torch import Tensor
from transformers import PreTrainedModel

from roadwork.core.devices import choose_device
from roadwork.data.dataset import ImageStore
from roadwork.data.features import FeatureDataset, compute_features
from roadwork.models.classifier import COLOR, has_patch_scores
from roadwork.models.head import find_head, in_evaluation_mode
from roadwork.models.patch_head import N_COLORS, PatchHead
from roadwork.preflight.recorder import Observations, Weights, WireRow
from roadwork.settings import TrainingSettings
from roadwork.training.linear_probe import why_no_features
from roadwork.training.lora.targets import adapter_summary, group_targets
from roadwork.training.trainers.base_trainer import MONITOR

# Allowed difference of the float32 average to its float64 reference; relative for values above 1.
EMA_TOLERANCE = 1e-5

# Parts of peft's parameter names: the wrapped network, an adapted layer's original weights, the head's trained copy.
_WRAPPED, _ORIGINAL, _HEAD = "base_model.model.", ".base_layer.", ".modules_to_save."
LOSS_TOLERANCE = 1e-4
CHANCE = 5.0  # allowed deviation of an epoch's draws, in standard deviations
COMPARED = 8
FEATURE_TOLERANCE = 1e-4

# On a GPU another batch size can select another kernel, which rounds more coarsely (TF32).
DEVICE_TOLERANCE = 1e-2


def callback_rows(seen: Observations) -> Iterator[WireRow]:
    """Counts the calls of each callback, then checks the results of MCC, AdaLoRA and EMA."""
    for callback, counter in seen.calls.items():
        wanted = {
            "on_train_batch_end": seen.n_train,
            "on_validation_batch_end": seen.n_validation,
            "on_validation_start": 1,
            "on_validation_end": 1,
        }
        yield WireRow(
            f"{type(callback).__name__} called",
            ", ".join(f"{name} called {count} of {wanted[name]} times" for name, count in counter.calls.items()),
            all(count == wanted[name] for name, count in counter.calls.items()),
            "register the callback in the Lightning Trainer, and leave its hooks callable",
        )
    yield _mcc_row(seen)
    if seen.trainer.settings.training.adapter == "adalora":
        yield _adalora_row(seen)
    if hasattr(seen.trainer, "ema_callback"):
        yield _ema_average_row(seen)
        yield _ema_swap_row(seen)


def _mcc_row(seen: Observations) -> WireRow:
    """Compares the logged MCC with scikit-learn's.

    The confusion matrix is compared too: if all predictions are of one class, MCC is 0 for any labels.
    """
    labels = torch.cat(seen.probe.validation.labels).numpy()
    decisions = torch.cat(seen.probe.validation.logits).argmax(dim=1).numpy()
    with warnings.catch_warnings():  # scikit-learn warns if labels and predictions are all of one class
        warnings.filterwarnings("ignore", "A single label was found")
        reference = float(matthews_corrcoef(labels, decisions))
    counts = confusion_matrix(labels, decisions, labels=[0, 1])
    logged = seen.logged.get(MONITOR)
    counted = seen.trainer.mcc_callback.confusion.numpy()
    return WireRow(
        "MCC",
        f"{MONITOR} logged as {logged if logged is None else f'{logged:.6f}'}, scikit-learn gives {reference:.6f} for "
        f"the same {len(labels)} rows; confusion matrix {counted.tolist()}, scikit-learn {counts.tolist()}",
        logged is not None and abs(logged - reference) < 1e-6 and np.array_equal(counted, counts),  # logged as float32
        "MCCCallback must be registered, and validation_step must return logits and labels",
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
        f"EMA weights differ from a float64 reference by at most {worst:.1g} ({len(averages)} of {len(moving)} tensors "
        f"averaged, {ema.n_updates} updates in {steps} steps)",
        worst < EMA_TOLERANCE and moving <= set(averages) and ema.n_updates == steps,
        "EMACallback must update after every optimizer step, with the decay in training.ema_decay",
    )


def _adalora_row(seen: Observations) -> WireRow:
    """Checks that AdaLoRA prunes some ranks, but not all: a pruned rank has a singular value (lora_E) of zero."""
    history = [{n: v for n, v in weights.items() if "lora_E" in n} for weights in seen.probe.weights_after_step]
    ranks = sum(v.numel() for v in history[-1].values())
    alive = sum(int((v != 0).sum()) for v in history[-1].values())
    return WireRow(
        "AdaLoRA",
        f"{alive} of {ranks} ranks remain after {len(history) - 1} steps",
        0 < alive < ranks,
        "AdaLoraCallback must prune ranks after every optimizer step",
    )


def _replay_ema(seen: Observations) -> Weights:
    """The average by its formula in float64, from the weights after each step."""
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
    """The largest difference, relative for values above 1; infinite if a reference is missing."""
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
        f"weights in validation differ from the EMA weights by at most {worst:.1g}; "
        f"the raw weights were {'restored exactly' if restored else 'NOT restored'} afterwards",
        worst < EMA_TOLERANCE and restored,
        "EMACallback must apply the EMA weights before validation, and restore the raw weights after it",
    )


def adapter_rows(seen: Observations) -> Iterator[WireRow]:
    """Checks that training updates every adapted layer and the head, and no frozen weight."""
    adapter = seen.trainer.settings.training.adapter
    if adapter == "none":
        return
    probe = seen.probe
    summary = adapter_summary(probe.model)
    first, later = probe.weights_after_step[0], (*probe.weights_after_step[1:], probe.weights_after_validation)
    names = [name for name, _ in probe.model.named_parameters()]
    changed = {name for name in names if any(not torch.equal(first[name], weights[name]) for weights in later)}
    added = {
        target: {name for name in names if name.startswith(f"{_WRAPPED}{target}.") and _ORIGINAL not in name}
        for target in summary.targets
    }
    stuck = [target for target, own in added.items() if not own & changed]
    head = {name for name in names if _HEAD in name}
    frozen = set(names) - head - set().union(*added.values())
    drifted = sorted(frozen & changed)
    yield WireRow(
        f"adapter ({adapter})",
        f"{len(summary.targets) - len(stuck)} of {len(summary.targets)} adapted layers updated"
        + (f" (not {stuck[0]})" if stuck else "")
        + f"; {len(head & changed)} of {len(head)} head tensors updated; "
        f"{len(drifted)} of {len(frozen)} frozen tensors changed"
        + (f" (first: {drifted[0]})" if drifted else "")
        + f"; layers: {group_targets(summary.targets)}",
        bool(summary.targets) and not stuck and bool(head) and head <= changed and not drifted,
        "apply_adapter must adapt layers that the loss depends on, train the head, and freeze everything else",
    )


def loss_rows(seen: Observations) -> Iterator[WireRow]:
    """Recomputes a non-default loss in float64, row by row, from the logits and labels of the training batches."""
    training = seen.trainer.settings.training
    if training.loss == "cross_entropy":
        return
    record = seen.probe.train
    weights = seen.trainer.module.class_weights
    used = [1.0, 1.0] if weights is None else weights.tolist()
    batches = zip(record.logits, record.labels, strict=True)
    expected = [_reference(x.double().numpy(), _soft(y), training, used) for x, y in batches]
    difference = max(abs(actual - wanted) for actual, wanted in zip(record.criteria, expected, strict=True))
    observed = (
        f"the training loss differs from the {training.loss} loss recomputed from logits and labels by at most "
        f"{difference:.1g} ({len(expected)} batches)"
    )
    works = difference <= LOSS_TOLERANCE * max(1.0, *expected)
    if training.loss == "balanced":
        share = float(seen.datamodule.datasets["train"].labels[seen.next_epoch].mean())
        weighted = share * used[1]
        observed += (
            f"; {share:.1%} of the next epoch's draws are Roadwork, with class weights None {used[0]:.2f} and Roadwork "
            f"{used[1]:.2f}: {weighted:.0%} of the loss weight is on Roadwork"
        )
        allowed = used[1] * CHANCE * np.sqrt(share * (1 - share) / max(1, len(seen.next_epoch)))
        works &= bool(abs(weighted - 0.5) <= allowed) and abs(used[0] * (1 - share) + weighted - 1) <= 2 * allowed
    yield WireRow(
        f"loss ({training.loss})",
        observed,
        works,
        "training_step must pass the settings to training_loss, and class weights that follow the sampler's draws",
    )


def _soft(labels: torch.Tensor) -> np.ndarray:
    soft: np.ndarray = np.eye(2)[labels.numpy()] if labels.dim() == 1 else labels.double().numpy()
    return soft


def _reference(logits: np.ndarray, soft: np.ndarray, training: TrainingSettings, weights: list[float]) -> float:
    losses = []
    for row, label in zip(logits, soft, strict=True):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        smooth = label * (1 - training.label_smoothing) + training.label_smoothing / 2
        factors = (1 - p) ** training.focal_gamma if training.loss == "focal" else weights
        losses.append(-float(np.sum(factors * smooth * np.log(np.maximum(p, 1e-300)))))
    return float(np.mean(losses))


def pooling_rows(seen: Observations) -> Iterator[WireRow]:
    """Checks `model.pooling=top_patches`: the logits follow from the patch scores, and photos differ in their patches.

    The validation weights may be averages, so the current network is compared with itself on a few training rows.
    """
    network = seen.probe.model.get_base_model() if isinstance(seen.probe.model, PeftModel) else seen.probe.model
    if not has_patch_scores(network):
        return
    module, count = seen.trainer.module, network.config.top_patches
    rows = np.unique(torch.cat(seen.probe.train.rows).numpy())[:COMPARED]
    images = seen.datamodule.normalise(_read_images(seen, rows).to(module.device))
    with torch.no_grad(), in_evaluation_mode(module):
        logits, scores, patches = module(images), network.patch_margins(images), network.patches(images)
    highest = scores.double().topk(min(count, scores.shape[1]), dim=1)
    difference = float((logits[:, 1] - logits[:, 0] - highest.values.mean(dim=1)).abs().max())
    n_places, n_scores = len(set(highest.indices.flatten().tolist())), scores.shape[1]
    n_patches = (images.shape[-1] // network.backbone.config.patch_size) ** 2
    yield WireRow(
        "patch scores",
        f"the score of {len(rows)} training rows differs from the mean of their {count} highest of {n_scores} "
        f"patch scores by at most {difference:.0e}; {n_places} of {n_patches} patches were selected",
        difference < FEATURE_TOLERANCE and n_scores == n_patches and (n_places > count or count >= n_patches),
        "the head must score every patch of the image, without class token and registers; identical patches in all "
        "photos mean that the backbone ignores the image",
    )
    if network.config.patch_head == COLOR:
        yield _patch_head_row(next(part for part in network.modules() if isinstance(part, PatchHead)), patches)


def _patch_head_row(head: PatchHead, patches: Tensor) -> WireRow:
    """Checks that the components of `model.patch_head=color` were fitted to these data, and that colours reach them.

    Args:
        head: of the trained network.
        patches: (..., D + N_COLORS) its inputs for training photos.
    """
    inputs = head.inputs(patches.flatten(0, -2))
    components, colors = inputs[:, : head.components.shape[1]], inputs[:, head.components.shape[1] :]
    centre, spread = float(components.mean(dim=0).abs().mean()), float(components.std(dim=0).mean())
    n_colors = int((colors.std(dim=0) > 0).sum())
    return WireRow(
        "patch head",
        f"over {len(inputs):,} patches its components have mean {centre:.2f} and standard deviation {spread:.2f}; "
        f"{n_colors} of {N_COLORS} colours differ between patches",
        bool(head.is_fitted) and centre < 1 and 0.3 < spread < 3 and n_colors > 0,
        "the components must be fitted to training photos before the first step, and the head must get the colours of "
        "each patch",
    )


def _read_images(seen: Observations, rows: np.ndarray) -> Tensor:
    """(n, 3, S, S) float32 in [0, 1], read as for validation."""
    photos = ImageStore(seen.datamodule.source, seen.datamodule.settings.data.img_size)
    return torch.stack([cast("Tensor", photos.get(row)) for row in rows.tolist()]).float().div_(255)


def frozen_rows(seen: Observations) -> Iterator[WireRow]:
    """Checks a frozen backbone: only the head changes, and cached features give the same logits as images."""
    if not seen.trainer.settings.training.freeze_backbone:
        return
    yield _frozen_backbone_row(seen)
    if why_no_features(seen.probe.model, seen.datamodule) is None:
        yield _frozen_features_row(seen)


def _frozen_backbone_row(seen: Observations) -> WireRow:
    probe, head = seen.probe, f"{find_head(seen.probe.model)}."
    first = probe.weights_after_step[0]
    later = (*probe.weights_after_step[1:], probe.weights_in_validation, probe.weights_after_validation)
    changed = {name for name, value in first.items() if any(not torch.equal(value, weights[name]) for weights in later)}
    in_head = {name for name, _ in seen.probe.model.named_parameters() if name.startswith(head)}
    drifted = sorted(changed - in_head)
    return WireRow(
        "frozen backbone",
        f"{len(drifted)} of {len(first) - len(in_head)} fixed tensors (weights and buffers) changed"
        + (f" (first: {drifted[0]})" if drifted else "")
        + f"; {len(changed & in_head)} of {len(in_head)} head tensors updated",
        not drifted and in_head <= changed,
        "the backbone must have requires_grad=False and stay in evaluation mode; the head must be trained",
    )


def _frozen_features_row(seen: Observations) -> WireRow:
    """Compares logits from cached features with logits from images, on a few rows of the training batches."""
    module, datamodule, settings = seen.trainer.module, seen.datamodule, seen.datamodule.settings
    rows = np.unique(torch.cat(seen.probe.train.rows).numpy())[:COMPARED]
    network = cast("PreTrainedModel", seen.probe.model)
    features = compute_features(network, settings, datamodule.ledger, datamodule.source, rows)
    dataset = FeatureDataset(datamodule.datasets["train"], features)
    batch = dataset.__getitems__(range(len(dataset)))
    images = _read_images(seen, batch["index"].numpy())
    home, device = module.device, choose_device("cpu" if settings.training.accelerator == "cpu" else "auto")
    module.to(device)
    with torch.no_grad(), in_evaluation_mode(module):
        from_features = module.logits_of({"features": batch["features"].to(device)})
        from_images = module(datamodule.normalise(images.to(device)))
        difference = float((from_features - from_images).abs().max())
    module.to(home)
    right = int((batch["label"].numpy() == datamodule.table.labels[batch["index"].numpy()]).sum())
    return WireRow(
        "frozen features",
        f"logits from cached features differ from logits from images by at most {difference:.1g} "
        f"({len(dataset)} of {len(rows)} rows compared); {right} of {len(rows)} labels match the dataset",
        difference < (FEATURE_TOLERANCE if device.type == "cpu" else DEVICE_TOLERANCE)
        and len(dataset) == right == len(rows),
        "compute_features must read, normalise and run images as validation does, and the network must compute its "
        "logits from the head alone",
    )
