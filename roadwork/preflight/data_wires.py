"""Checks of the data for the wiring table: splits, sampler, augmentation, labels, resized copy, mixed datasets."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from roadwork.data.augmentation.batch_augmentation import BatchAugmentation
from roadwork.data.augmentation.latest_aug_2025 import LatestAugmentation2025
from roadwork.data.images import decode_image
from roadwork.data.mixed_datasets import SOURCE
from roadwork.data.samplers.build import BalancedSampler, MixtureSampler
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler
from roadwork.data.samplers.stratified_sampler import StratifiedSampler
from roadwork.data.samplers.summary import Repeats
from roadwork.data.samplers.weights import parse_brackets
from roadwork.preflight.recorder import Observations, StageRecord, WireRow

COMPARED = 8

# Mean absolute difference (0 to 255) between a photo and its copy: measured at 0.5 to 1.5; other photos differ by 20.
COPY_TOLERANCE = 6.0
CHANCE = 5.0  # allowed deviation of independent draws, in standard deviations
_ROUNDING = 1e-6  # allowed deviation of systematic draws beyond one draw

# Largest difference of normalised pixels that counts as equal: bf16 rounds. Augmentation changes far more.
IMAGE_TOLERANCE = 0.02

# Batches without a mixed label fail the check if chance explains them in less than one of this many runs.
ENOUGH_PAIRINGS = 10_000


def copy_rows(seen: Observations) -> Iterator[WireRow]:
    """Compares training images from the resized copy with their photos; no row without a copy."""
    dataset = seen.datamodule.datasets["train"]
    copy = dataset.store.copy
    if copy is None:
        return
    covered = int(copy.has[dataset.rows].sum())
    used = torch.cat(seen.probe.train.rows).numpy()
    compared = used[copy.has[used]][:COMPARED].tolist()
    size = dataset.store.size
    differences = []
    for row in compared:
        pixels = copy.image(row, size)
        if pixels is not None:
            photo = decode_image(seen.datamodule.source.read(row), size)
            differences.append(float(np.abs(pixels.astype(int) - photo).mean()))
    found = f"{len(differences)} of {len(compared)} compared images could be read"
    if differences:
        found += f" and differ from their photos by at most {max(differences):.1f} of 255 on average"
    yield WireRow(
        "resized copy",
        f"{copy.folder} has {covered:,} of {len(dataset):,} training images; {found}",
        len(differences) == len(compared) and max(differences, default=0.0) < COPY_TOLERANCE,
        f"the copy does not match the photos: delete {copy.folder}, and run `roadwork prepare` again",
    )


def extra_rows(seen: Observations) -> Iterator[WireRow]:
    """Compares the share of draws that each dataset of `data.extra` gets with its configured share.

    The expected share follows from the settings and the rows' distances, not from the sampler's own weights.
    """
    extras = seen.datamodule.settings.data.extra
    if not extras:
        return
    dataset, slices = seen.datamodule.datasets["train"], seen.datamodule.table.slices
    names = slices[SOURCE].to_numpy(dtype=object)
    of_row = names[dataset.rows]
    n_draws = len(seen.next_epoch)
    drawn_names = of_row[seen.next_epoch]
    used = names[torch.cat(seen.probe.train.rows).numpy()]
    expected = _expected_shares(seen, of_row)
    sampling = seen.datamodule.settings.data.gps_sampling
    for extra in extras:
        name, share = extra.dataset_name, expected[extra.dataset_name]
        n_drawn = int((drawn_names == name).sum())
        allowed = 1 + _ROUNDING
        if sampling.draw == "iid":
            allowed += CHANCE * np.sqrt(n_draws * share * (1 - share))
        yield WireRow(
            f"extra data ({name})",
            f"expected share {share:.1%}, drawn share {n_drawn / max(1, n_draws):.1%} "
            f"({n_drawn:,} of {n_draws:,} draws in the next epoch); {int((of_row == name).sum()):,} of "
            f"{len(dataset):,} training rows, {int((used == name).sum())} of {len(used)} images in these batches",
            abs(n_drawn - share * n_draws) <= allowed,
            "train_dataloader must pass the result of find_mixture to its sampler, and the sampler must draw by it",
        )


def _expected_shares(seen: Observations, of_row: np.ndarray) -> dict[str, float]:
    """The share of draws that each dataset of `data.extra` should get."""
    data, sampler = seen.datamodule.settings.data, seen.datamodule.train_sampler
    weights = np.ones(len(of_row))
    if isinstance(sampler, GPSWeightedSampler):
        brackets = parse_brackets(data.gps_sampling.weight_brackets)
        by_distance = np.append(brackets.weights, data.gps_sampling.missing_weight)
        weights = by_distance[brackets.index_of(sampler.distances_km)]
    shares = {extra.dataset_name: extra.share for extra in data.extra if extra.share is not None}
    factors = {extra.dataset_name: extra.weight for extra in data.extra}
    totals = {name: factors.get(name, 1.0) * float(weights[of_row == name].sum()) for name in set(of_row) - set(shares)}
    left = (1 - sum(shares.values())) / sum(totals.values())
    return {name: shares.get(name, left * totals.get(name, 0.0)) for name in factors}


def data_rows(seen: Observations) -> Iterator[WireRow]:
    """Checks the splits of the rows, the sampler, and its next epoch."""
    names = seen.datamodule.split_names
    used = {
        "train": torch.cat(seen.probe.train.rows).numpy(),
        "val_select": torch.cat(seen.probe.validation.rows).numpy(),
    }
    matching = {split: int((names[rows] == split).sum()) for split, rows in used.items()}
    yield WireRow(
        "splits",
        f"{matching['train']} of {len(used['train'])} training rows are from train; "
        f"{matching['val_select']} of {len(used['val_select'])} validation rows are from val_select",
        all(matching[split] == len(rows) for split, rows in used.items()),
        "train_dataloader and dataloader_for must read the dataset of their own split",
    )
    yield _sampler_row(seen)
    yield _sampler_share_row(seen)


def _sampler_row(seen: Observations) -> WireRow:
    is_by_gps = seen.datamodule.settings.data.gps_sampling.enabled
    wanted: tuple[type, ...] = (GPSWeightedSampler,) if is_by_gps else (DistributedSampler, MixtureSampler)
    if seen.datamodule.settings.data.balance:
        wanted = (BalancedSampler,)
    rows = torch.cat(seen.probe.train.rows).numpy()
    in_order = bool((np.diff(rows) > 0).all()) and len(rows) > 2
    return WireRow(
        "sampler",
        f"the training loader uses {type(seen.probe.sampler).__name__}; "
        f"its first {len(rows)} rows are {'in file order' if in_order else 'shuffled'}",
        isinstance(seen.probe.sampler, wanted) and not in_order,
        f"train_dataloader must pass a {wanted[0].__name__} to its loader (data.gps_sampling.enabled, data.balance)",
    )


def _sampler_share_row(seen: Observations) -> WireRow:
    """Compares the next epoch's draws with the sampler's weights: per distinct weight, then per row."""
    dataset = seen.datamodule.datasets["train"]
    counts = np.bincount(seen.next_epoch, minlength=len(dataset))
    sampler = seen.datamodule.train_sampler
    weights = sampler.weights if isinstance(sampler, StratifiedSampler) else np.ones(len(dataset))
    levels, inverse = np.unique(weights, return_inverse=True)
    wanted = np.bincount(inverse, weights=weights) / weights.sum()
    drawn = np.bincount(inverse, weights=counts) / max(1, counts.sum())
    allowed = CHANCE * np.sqrt(wanted * (1 - wanted) / max(1, len(dataset))) + 2 / max(1, len(dataset))
    parts = ", ".join(
        f"weight {w:g}: {d:.1%} of draws (expected {s:.1%})" for w, d, s in zip(levels, drawn, wanted, strict=True)
    )
    sampling = seen.datamodule.settings.data.gps_sampling
    repeats = Repeats.of(sampler, len(dataset), seen.trainer.settings.training.epochs)
    parts += (
        f"; effective sample size {repeats.effective_rows:,.0f} rows, "
        f"each seen about {repeats.per_row:.0f} times in {repeats.epochs} epochs"
    )
    uneven = 0  # systematic draws and permutations: each row's count is its expected count, rounded up or down
    if not sampling.enabled or sampling.draw == "systematic":
        uneven = int((np.abs(counts - len(dataset) * weights / weights.sum()) > 1 - 1e-9).sum())
        parts += f"; {uneven} rows drawn too often or too seldom"
    return WireRow(
        "sampler's next epoch",
        f"{counts.sum():,} draws from {len(dataset):,} rows; {parts}",
        bool((np.abs(drawn - wanted) <= allowed).all()) and int(counts.sum()) == len(dataset) and not uneven,
        "the sampler must draw rows by its weights: compare sampler.summary() with list(sampler)",
    )


def augmentation_rows(seen: Observations) -> Iterator[WireRow]:
    """Checks the images and labels that reach the network and the loss."""
    module = seen.datamodule.train_augmentation
    is_ours = isinstance(module, BatchAugmentation)
    name = seen.datamodule.settings.data.augmentation.train.mode if is_ours else type(module).__name__
    changed = _share_changed(seen, "train", seen.probe.train)
    arrived = sum(
        returned is not None and _equal_images(seen.datamodule.normalise(returned[0]), images)
        for returned, images in zip(seen.probe.augmented, seen.probe.train.images, strict=True)
    )
    yield WireRow(
        f"augmentation ({name})",
        f"augmented images reached the network in {arrived} of {len(seen.probe.augmented)} batches; "
        f"{changed:.0%} of {sum(map(len, seen.probe.train.images))} training images differ from their files",
        arrived == len(seen.probe.augmented)
        and (changed == 0 if seen.datamodule.is_identity_augmentation else changed > 0 or not is_ours),
        "on_after_batch_transfer must call augment() during training, and return its images",
    )
    untouched = 1 - _share_changed(seen, "val_select", seen.probe.validation)
    yield WireRow(
        "no augmentation in validation",
        f"{untouched:.0%} of {sum(map(len, seen.probe.validation.images))} validation images match their files",
        untouched == 1.0,
        "on_after_batch_transfer must not call augment() during validation",
    )
    yield _training_labels_row(seen)
    table_labels = seen.datamodule.table.labels[torch.cat(seen.probe.validation.rows).numpy()]
    right = int((torch.cat(seen.probe.validation.labels).numpy() == table_labels).sum())
    yield WireRow(
        "labels of validation",
        f"{right} of {len(table_labels)} labels match the dataset",
        right == len(table_labels),
        "RoadworkDataset must return each image with the label of its own row",
    )


def _training_labels_row(seen: Observations) -> WireRow:
    labels = torch.cat([_as_soft(label) for label in seen.probe.train.labels])
    error = float((labels.sum(dim=1) - 1).abs().max())
    mixed = float(((labels > 1e-6).sum(dim=1) > 1).float().mean())
    table_labels = torch.as_tensor(seen.datamodule.table.labels[torch.cat(seen.probe.train.rows).numpy()])
    n_changed = int((labels != _as_soft(table_labels)).any(dim=1).sum())
    arrived = sum(
        returned is not None and torch.equal(returned[1], label)
        for returned, label in zip(seen.probe.augmented, seen.probe.train.labels, strict=True)
    )
    return WireRow(
        "labels of training",
        f"augmented labels reached the loss in {arrived} of {len(seen.probe.augmented)} batches; "
        f"their sums differ from 1 by at most {error:.1g}; {mixed:.0%} are mixed; "
        f"{n_changed} of {len(labels)} differ from the dataset",
        arrived == len(seen.probe.augmented)
        and error < 1e-5
        and bool((labels >= 0).all())
        and (mixed > 0 or not _must_mix(seen))
        and (n_changed == 0 or not seen.datamodule.is_identity_augmentation),
        "the augmentation must return the labels of its images, and training_step must use them in the loss",
    )


def _must_mix(seen: Observations) -> bool:
    """Whether mixed labels are almost certain: every batch is mixed, and random pairs almost surely differ in label.

    In a batch with a rows of one label and b of the other, all pairs have equal labels with a probability of
    a! b! / (a + b)!.
    """
    module = seen.datamodule.train_augmentation
    if not isinstance(module, LatestAugmentation2025) or module.mix_probability < 1:
        return False
    table_labels = seen.datamodule.table.labels
    pairings = math.prod(math.comb(len(rows), int(table_labels[rows.numpy()].sum())) for rows in seen.probe.train.rows)
    return pairings > ENOUGH_PAIRINGS


def _as_soft(labels: Tensor) -> Tensor:
    return labels if labels.ndim == 2 else torch.nn.functional.one_hot(labels, 2).float()


def _share_changed(seen: Observations, split: str, record: StageRecord) -> float:
    """The share of images that differ from the stored ones when they reach the network."""
    store = seen.datamodule.datasets[split].store
    changed = []
    for batch_rows, batch in zip(record.rows, record.images, strict=True):
        original = torch.stack([torch.as_tensor(store.get(int(row))) for row in batch_rows]).float().div_(255)
        difference = (seen.datamodule.normalise(original) - batch).abs().flatten(1).amax(dim=1)
        changed.append(difference > IMAGE_TOLERANCE)
    return float(torch.cat(changed).float().mean())


def _equal_images(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and float((ours - theirs).abs().max()) < IMAGE_TOLERANCE
