"""The wiring table: each row judges one wire by what a probe observed on real batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from sklearn.metrics import confusion_matrix, matthews_corrcoef
from torch import Tensor

from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler
from roadwork.preflight.probe import CallCounter, Weights, WiringProbe
from roadwork.training.trainers.base_trainer import MONITOR, BaseTrainer

# An average kept in float32 against its replay in float64.
EMA_TOLERANCE = 1e-5
CHANCE = 5.0  # standard deviations that independent draws may lie off


@dataclass(frozen=True)
class WireRow:
    """One wire: what was observed, whether that shows that it works, and what to look at if not."""

    wire: str
    observed: str
    works: bool
    fix: str


@dataclass
class Observations:
    """All that a dry run observed."""

    trainer: BaseTrainer
    datamodule: NATIXDataModule
    probe: WiringProbe
    calls: dict[Callback, CallCounter]
    logged: dict[str, float]
    loader: Any
    next_epoch: np.ndarray
    checkpoint: dict[str, Any] | None
    n_train: int
    n_validation: int


def judge(seen: Observations) -> list[WireRow]:
    """Every row of the wiring table, in the order in which data flows."""
    return [
        *_data_rows(seen),
        *_augmentation_rows(seen),
        *_training_rows(seen),
        *_callback_rows(seen),
        _checkpoint_row(seen),
    ]


def _data_rows(seen: Observations) -> Iterator[WireRow]:
    names = seen.datamodule.split_names
    shown = {
        "train": torch.cat(seen.probe.train.rows).numpy(),
        "val_select": torch.cat(seen.probe.validation.rows).numpy(),
    }
    strays = {split: int((names[rows] != split).sum()) for split, rows in shown.items()}
    yield WireRow(
        "splits",
        "; ".join(
            f"{len(rows)} rows of {split} shown, {strays[split]} from elsewhere" for split, rows in shown.items()
        ),
        not any(strays.values()),
        "dataloader_for and train_dataloader must read the dataset of their own split",
    )
    yield _sampler_row(seen)
    yield _sampler_share_row(seen)


def _sampler_row(seen: Observations) -> WireRow:
    wanted = "GPSWeightedSampler" if seen.datamodule.settings.data.gps_sampling.enabled else "DistributedSampler"
    found = type(seen.probe.sampler).__name__
    shown = torch.cat(seen.probe.train.rows).numpy()
    in_order = bool((np.diff(shown) > 0).all()) and len(shown) > 2
    return WireRow(
        "sampler",
        f"the loader that trained has a {found}; "
        f"its first {len(shown)} rows came {'in file order' if in_order else 'shuffled'}",
        found == wanted and not in_order,
        f"train_dataloader must pass the {wanted} to its DataLoader, as data.gps_sampling.enabled says",
    )


def _sampler_share_row(seen: Observations) -> WireRow:
    """The next epoch's draws by distinct weight, against the share that the weights ask for."""
    dataset = seen.datamodule.datasets["train"]
    counts = np.bincount(seen.next_epoch, minlength=len(dataset))
    sampler = seen.datamodule.train_sampler
    weights = sampler.weights if isinstance(sampler, GPSWeightedSampler) else np.ones(len(dataset))
    levels, inverse = np.unique(weights, return_inverse=True)
    wanted = np.bincount(inverse, weights=weights) / weights.sum()
    drawn = np.bincount(inverse, weights=counts) / max(1, counts.sum())
    allowed = CHANCE * np.sqrt(wanted * (1 - wanted) / max(1, len(dataset))) + 2 / max(1, len(dataset))
    parts = ", ".join(
        f"weight {w:g}: {d:.1%} drawn, {s:.1%} asked" for w, d, s in zip(levels, drawn, wanted, strict=True)
    )
    return WireRow(
        "sampler's next epoch",
        f"{counts.sum():,} draws of {len(dataset):,} rows; {parts}",
        bool((np.abs(drawn - wanted) <= allowed).all()) and int(counts.sum()) == len(dataset),
        "the sampler must yield rows by its weights; compare sampler.summary() with list(sampler)",
    )


def _augmentation_rows(seen: Observations) -> Iterator[WireRow]:
    mode = seen.datamodule.settings.data.augmentation.train.mode
    changed = _share_changed(seen, seen.probe.train.rows, seen.probe.train.images)
    yield WireRow(
        f"augmentation ({mode})",
        f"{changed:.0%} of {sum(map(len, seen.probe.train.images))} training images differ from their files",
        changed > 0.5,
        "on_after_batch_transfer must call augment() while training",
    )
    untouched = 1 - _share_changed(seen, seen.probe.validation.rows, seen.probe.validation.images)
    yield WireRow(
        "no augmentation in validation",
        f"{untouched:.0%} of {sum(map(len, seen.probe.validation.images))} validation images equal their files",
        untouched == 1.0,
        "augment only where trainer.training is true",
    )
    labels = torch.cat([_as_soft(label) for label in seen.probe.train.labels])
    error = float((labels.sum(dim=1) - 1).abs().max())
    mixed = float(((labels > 1e-6).sum(dim=1) > 1).float().mean())
    settings = seen.datamodule.settings.data.augmentation.train
    mixing = mode == "latest_2025" and settings.mix_probability == 1.0
    yield WireRow(
        "labels of training",
        f"they sum to 1 within {error:.0e}; {mixed:.0%} are mixed",
        error < 1e-5 and bool((labels >= 0).all()) and (mixed > 0 or not mixing),
        "the augmentation must return the labels that go with its images",
    )


def _as_soft(labels: Tensor) -> Tensor:
    return labels if labels.ndim == 2 else torch.nn.functional.one_hot(labels, 2).float()


def _share_changed(seen: Observations, rows: list[Tensor], images: list[Tensor]) -> float:
    """Share of images that the network saw otherwise than the reader gives them."""
    store = seen.datamodule.datasets["train"].store
    changed = []
    for batch_rows, batch in zip(rows, images, strict=True):
        original = torch.stack([torch.as_tensor(store.get(int(row))) for row in batch_rows]).float().div_(255)
        difference = (seen.datamodule.normalise(original) - batch).abs().flatten(1).amax(dim=1)
        changed.append(difference > 0.02)  # bf16 rounds; a changed picture differs by far more
    return float(torch.cat(changed).float().mean())


def _training_rows(seen: Observations) -> Iterator[WireRow]:
    probe = seen.probe
    losses = probe.train.losses + probe.validation.losses
    yield WireRow(
        "loss",
        f"training {_range(probe.train.losses)}, validation {_range(probe.validation.losses)}; "
        f"learning rates {_range(probe.learning_rates)}",
        bool(np.isfinite(losses).all()) and bool(probe.learning_rates) and min(probe.learning_rates) > 0,
        "a loss that is not finite: lower training.lr or set training.precision=32-true",
    )
    parameters = dict(probe.model.named_parameters())
    trainable = {name for name, parameter in parameters.items() if parameter.requires_grad}
    first, last = probe.weights_after_step[0], probe.weights_after_step[-1]
    with_gradient = {n for n in trainable if (g := probe.gradients.get(n)) and g.came and g.finite and g.nonzero}
    moved = {name for name in parameters if not torch.equal(first[name], last[name])}
    stuck, drifted = sorted(trainable - with_gradient), sorted(moved - trainable)
    n_trainable = sum(parameters[name].numel() for name in trainable)
    yield WireRow(
        "gradients",
        f"{n_trainable:,} of {sum(p.numel() for p in parameters.values()):,} parameters trainable; "
        f"{len(with_gradient)} of {len(trainable)} trainable tensors had a gradient"
        + (f", not {stuck[0]}" if stuck else ""),
        bool(trainable) and not stuck,
        "every trainable parameter must be reached by the loss; freeze what is not meant to train",
    )
    yield WireRow(
        "optimizer",
        f"{len(probe.weights_after_step) - 1} steps moved {len(moved & trainable)} of {len(trainable)} trainable "
        f"tensors and {len(drifted)} of {len(parameters) - len(trainable)} frozen ones"
        + (f", {drifted[0]}" if drifted else ""),
        trainable <= moved | set(stuck) and bool(moved) and not drifted,
        "configure_optimizers must give the optimizer every trainable parameter and no frozen one",
    )


def _callback_rows(seen: Observations) -> Iterator[WireRow]:
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
    replayed = _replay_ema(seen)
    shadow = seen.trainer.ema_callback.shadow
    shared = sorted(set(shadow) & set(replayed))
    worst = max((float((shadow[n].double().cpu() - replayed[n]).abs().max()) for n in shared), default=float("inf"))
    trainable = {name for name, parameter in seen.probe.model.named_parameters() if parameter.requires_grad}
    steps = len(seen.probe.weights_after_step) - 1
    return WireRow(
        "EMA average",
        f"{seen.trainer.ema_callback.n_updates} updates in {steps} steps; "
        f"{len(shared)} averages differ from a float64 replay by at most {worst:.0e}",
        worst < EMA_TOLERANCE and trainable <= set(shadow) and seen.trainer.ema_callback.n_updates == steps,
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
    average = {name: value.double() for name, value in history[0].items()}
    for step, weights in enumerate(history[1:]):
        decay = min(training.ema_decay, (1 + step) / (10 + step)) if training.ema_warmup else training.ema_decay
        average = {name: decay * average[name] + (1 - decay) * value.double() for name, value in weights.items()}
    if training.adapter == "adalora":  # a pruned rank is pruned in the average too
        average = {n: v * (history[-1][n] != 0) if "lora_E" in n else v for n, v in average.items()}
    return average


def _ema_swap_row(seen: Observations) -> WireRow:
    probe = seen.probe
    shadow = seen.trainer.ema_callback.shadow
    used = {
        n: float((probe.weights_in_validation[n].double() - v.double().cpu()).abs().max())
        for n, v in shadow.items()
        if n in probe.weights_in_validation
    }
    worst = max(used.values(), default=float("inf"))
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


def _checkpoint_row(seen: Observations) -> WireRow:
    """The checkpoint must hold what validation judged: the average where there is one, else the weights."""
    judged = seen.probe.weights_in_validation
    saved = {
        name.removeprefix("model."): value for name, value in (seen.checkpoint or {}).get("state_dict", {}).items()
    }
    equal = [name for name, value in judged.items() if name in saved and torch.equal(saved[name].cpu(), value)]
    return WireRow(
        "checkpoint",
        "none was written"
        if seen.checkpoint is None
        else f"written and read back: {len(equal)} of {len(judged)} tensors equal those that validation judged",
        bool(judged) and len(equal) == len(judged),
        "ModelCheckpoint must save the weights that validation used",
    )


def _range(values: list[float]) -> str:
    return f"{min(values):.4g} to {max(values):.4g}" if values else "none"
