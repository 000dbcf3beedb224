"""Rows of the wiring table: splits, sampler, augmentation, labels, prepared copy, mixed datasets."""

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

# Mean difference of 255 between a photo and its copy; measured at 0.5 to 1.5. Another picture differs by 20 or more.
COPY_TOLERANCE = 6.0
CHANCE = 5.0  # standard deviations that independent draws may lie off
_ROUNDING = 1e-6  # of a draw

# Of pixels: bf16 rounds; a changed picture differs by far more.
IMAGE_TOLERANCE = 0.02

# Mixing that shows nothing is held to be dead where chance would hide it less than once in so many runs.
ENOUGH_PAIRINGS = 10_000


def copy_rows(seen: Observations) -> Iterator[WireRow]:
    """Whether images that training took from the resized copy show what their photos do; no row where there is none."""
    dataset = seen.datamodule.datasets["train"]
    copy = dataset.store.copy
    if copy is None:
        return
    covered = int(copy.has[dataset.rows].sum())
    shown = torch.cat(seen.probe.train.rows).numpy()
    compared = shown[copy.has[shown]][:COMPARED].tolist()
    size = dataset.store.size
    differences = []
    for row in compared:
        pixels = copy.image(row, size)
        if pixels is not None:
            photo = decode_image(seen.datamodule.source.read(row), size)
            differences.append(float(np.abs(pixels.astype(int) - photo).mean()))
    found = f"the {len(differences)} of {len(compared)} that were compared differ from their photos by "
    found += f"{max(differences):.1f} of 255 at most" if differences else "nothing that could be seen"
    yield WireRow(
        "resized copy",
        f"{covered:,} of {len(dataset):,} training images come from {copy.folder}; {found}",
        len(differences) == len(compared) and max(differences, default=0.0) < COPY_TOLERANCE,
        f"the copy holds other pictures: delete {copy.folder}, and run `roadwork prepare` again",
    )


def extra_rows(seen: Observations) -> Iterator[WireRow]:
    """Of each dataset of `data.extra`: its part of the next epoch's draws, against what the configuration asks for.

    What is asked is worked out from the settings and the rows' distances, not from the sampler's own weights.
    """
    extras = seen.datamodule.settings.data.extra
    if not extras:
        return
    dataset, slices = seen.datamodule.datasets["train"], seen.datamodule.table.slices
    names = slices[SOURCE].to_numpy(dtype=object)
    of_row = names[dataset.rows]
    n_draws = len(seen.next_epoch)
    drawn_names = of_row[seen.next_epoch]
    shown = names[torch.cat(seen.probe.train.rows).numpy()]
    asked = _asked_shares(seen, of_row)
    sampling = seen.datamodule.settings.data.gps_sampling
    for extra in extras:
        name, share = extra.dataset_name, asked[extra.dataset_name]
        n_drawn = int((drawn_names == name).sum())
        allowed = 1 + _ROUNDING
        if sampling.draw == "iid":
            allowed += CHANCE * np.sqrt(n_draws * share * (1 - share))
        yield WireRow(
            f"extra data ({name})",
            f"share asked {share:.1%}, share drawn {n_drawn / max(1, n_draws):.1%} "
            f"({n_drawn:,} of {n_draws:,} draws of the next epoch); it has {int((of_row == name).sum()):,} of "
            f"{len(dataset):,} training rows, and {int((shown == name).sum())} of the {len(shown)} images shown",
            abs(n_drawn - share * n_draws) <= allowed,
            "train_dataloader must give its sampler the mixture of find_mixture, and the sampler draw by it",
        )


def _asked_shares(seen: Observations, of_row: np.ndarray) -> dict[str, float]:
    """Share of the draws that each dataset of `data.extra` should have."""
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
    """Splits, and what the sampler draws."""
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
    is_by_gps = seen.datamodule.settings.data.gps_sampling.enabled
    wanted: tuple[type, ...] = (GPSWeightedSampler,) if is_by_gps else (DistributedSampler, MixtureSampler)
    if seen.datamodule.settings.data.balance:
        wanted = (BalancedSampler,)
    shown = torch.cat(seen.probe.train.rows).numpy()
    in_order = bool((np.diff(shown) > 0).all()) and len(shown) > 2
    return WireRow(
        "sampler",
        f"the loader that trained has a {type(seen.probe.sampler).__name__}; "
        f"its first {len(shown)} rows came {'in file order' if in_order else 'shuffled'}",
        isinstance(seen.probe.sampler, wanted) and not in_order,
        f"train_dataloader must pass the {wanted[0].__name__} to its loader, as data.gps_sampling and data.balance say",
    )


def _sampler_share_row(seen: Observations) -> WireRow:
    """The next epoch's draws by distinct weight, against the share that the weights ask for; then row by row."""
    dataset = seen.datamodule.datasets["train"]
    counts = np.bincount(seen.next_epoch, minlength=len(dataset))
    sampler = seen.datamodule.train_sampler
    weights = sampler.weights if isinstance(sampler, StratifiedSampler) else np.ones(len(dataset))
    levels, inverse = np.unique(weights, return_inverse=True)
    wanted = np.bincount(inverse, weights=weights) / weights.sum()
    drawn = np.bincount(inverse, weights=counts) / max(1, counts.sum())
    allowed = CHANCE * np.sqrt(wanted * (1 - wanted) / max(1, len(dataset))) + 2 / max(1, len(dataset))
    parts = ", ".join(
        f"weight {w:g}: {d:.1%} drawn, {s:.1%} asked" for w, d, s in zip(levels, drawn, wanted, strict=True)
    )
    sampling = seen.datamodule.settings.data.gps_sampling
    parts += f"; {Repeats.of(sampler, len(dataset), seen.trainer.settings.training.epochs)}"[:-1]
    uneven = 0  # systematic draws, and a plain permutation: each row the floor or ceiling of its expected count
    if not sampling.enabled or sampling.draw == "systematic":
        uneven = int((np.abs(counts - len(dataset) * weights / weights.sum()) > 1 - 1e-9).sum())
        parts += f"; {uneven} rows drawn too often or too seldom"
    return WireRow(
        "sampler's next epoch",
        f"{counts.sum():,} draws of {len(dataset):,} rows; {parts}",
        bool((np.abs(drawn - wanted) <= allowed).all()) and int(counts.sum()) == len(dataset) and not uneven,
        "the sampler must yield rows by its weights; compare sampler.summary() with list(sampler)",
    )


def augmentation_rows(seen: Observations) -> Iterator[WireRow]:
    """Images and labels on their way from the files to the network."""
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
        f"its images reached the network in {arrived} of {len(seen.probe.augmented)} batches; "
        f"{changed:.0%} of {sum(map(len, seen.probe.train.images))} training images differ from their files",
        arrived == len(seen.probe.augmented)
        and (changed == 0 if seen.datamodule.is_identity_augmentation else changed > 0 or not is_ours),
        "on_after_batch_transfer must call augment() while training, and pass on what it returns",
    )
    untouched = 1 - _share_changed(seen, "val_select", seen.probe.validation)
    yield WireRow(
        "no augmentation in validation",
        f"{untouched:.0%} of {sum(map(len, seen.probe.validation.images))} validation images equal their files",
        untouched == 1.0,
        "augment only where trainer.training is true",
    )
    yield _training_labels_row(seen)
    table_labels = seen.datamodule.table.labels[torch.cat(seen.probe.validation.rows).numpy()]
    right = int((torch.cat(seen.probe.validation.labels).numpy() == table_labels).sum())
    yield WireRow(
        "labels of validation",
        f"{right} of {len(table_labels)} are those of the table",
        right == len(table_labels),
        "the dataset must give each image the label of its own row",
    )


def _training_labels_row(seen: Observations) -> WireRow:
    labels = torch.cat([_as_soft(label) for label in seen.probe.train.labels])
    error = float((labels.sum(dim=1) - 1).abs().max())
    mixed = float(((labels > 1e-6).sum(dim=1) > 1).float().mean())
    table_labels = torch.as_tensor(seen.datamodule.table.labels[torch.cat(seen.probe.train.rows).numpy()])
    unlike = int((labels != _as_soft(table_labels)).any(dim=1).sum())
    arrived = sum(
        returned is not None and torch.equal(returned[1], label)
        for returned, label in zip(seen.probe.augmented, seen.probe.train.labels, strict=True)
    )
    return WireRow(
        "labels of training",
        f"those of the augmentation reached the loss in {arrived} of {len(seen.probe.augmented)} batches; "
        f"they sum to 1 within {error:.0e}; {mixed:.0%} are mixed, {unlike} of {len(labels)} unlike the table's",
        arrived == len(seen.probe.augmented)
        and error < 1e-5
        and bool((labels >= 0).all())
        and (mixed > 0 or not _must_mix(seen))
        and (unlike == 0 or not seen.datamodule.is_identity_augmentation),
        "the augmentation must return the labels that go with its images",
    )


def _must_mix(seen: Observations) -> bool:
    """Whether every batch is mixed, and a random pairing almost never pairs rows of one label alone.

    A batch with a rows of one label and b of the other does so once in (a + b)! / (a! b!) times.
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
    """Share of images that the network saw otherwise than the reader gives them."""
    store = seen.datamodule.datasets[split].store
    changed = []
    for batch_rows, batch in zip(record.rows, record.images, strict=True):
        original = torch.stack([torch.as_tensor(store.get(int(row))) for row in batch_rows]).float().div_(255)
        difference = (seen.datamodule.normalise(original) - batch).abs().flatten(1).amax(dim=1)
        changed.append(difference > IMAGE_TOLERANCE)
    return float(torch.cat(changed).float().mean())


def _equal_images(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and float((ours - theirs).abs().max()) < IMAGE_TOLERANCE
