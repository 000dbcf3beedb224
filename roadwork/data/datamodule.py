"""Wires dataset, splits, sampler and augmentation into a LightningDataModule."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
import numpy as np
import torch
from joblib import cpu_count
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from roadwork.config import compose_config, to_settings
from roadwork.core.devices import available_bytes, devices_here
from roadwork.core.errors import ConfigError, DataError
from roadwork.core.rng import repeatable_draws
from roadwork.data.augmentation.build import NoAugmentation, build_train_augmentation
from roadwork.data.dataset import (
    ImageStore,
    ResumableLoader,
    RoadworkDataset,
    UnreadableLedger,
    collate,
    ignore_interrupts,
)
from roadwork.data.deployment import find_deployment, unreachable_targets
from roadwork.data.grouping.groups import Groups
from roadwork.data.images import TRAINING_SCALE, ImageSource, normalise, to_unit_range
from roadwork.data.mixed_datasets import find_mixture
from roadwork.data.prepared.copy import find_copy
from roadwork.data.samplers.build import (
    BalancedSampler,
    MixtureSampler,
    UniformSampler,
    balanced_values,
    build_gps_sampler,
)
from roadwork.data.samplers.clusters import cluster_deployment
from roadwork.data.samplers.weights import parse_brackets
from roadwork.data.source import find_groups, find_splits, read_dataset
from roadwork.data.splitting.check import SplitReport, check_splits
from roadwork.data.splitting.splits import Splits
from roadwork.data.table import SampleTable
from roadwork.data.utils.geo import nearest_km
from roadwork.models.processor import ImageStatistics, image_statistics
from roadwork.settings import SPLIT_NAMES

logger = logging.getLogger(__name__)

# Images go to RAM by themselves where they take at most this share of the memory that is available.
RAM_SHARE = 0.25
MAX_WORKERS = 16
# Those that a fit reads, epoch after epoch.
FITTED_SPLITS = ("train", "val_select")


class NATIXDataModule(L.LightningDataModule):
    """The four splits of a dataset, sampled towards the deployment and augmented on the device.

    Batches are dicts: `image` (B, 3, S, S) float, normalised; `label` (B,) int64, or soft (B, 2) where the
    augmentation mixes; `index` (B,) rows of `table`.

    A fit reads the resized copy where there is one. Everything else reads the photos, as prediction does.

    Users override two seams: `_get_train_transforms` and `_get_test_gps_coords`.
    """

    table: SampleTable
    source: ImageSource
    groups: Groups
    splits: Splits
    split_report: SplitReport
    split_names: np.ndarray
    ledger: UnreadableLedger
    statistics: ImageStatistics

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__()
        self.cfg = compose_config(cfg)
        self.settings = to_settings(self.cfg)
        self.datasets: dict[str, RoadworkDataset] = {}
        self.train_sampler: Sampler[int] | None = None
        self.train_augmentation: nn.Module | None = None
        self.target_source = "points of your own"

    def setup(self, stage: str | None = None) -> None:
        """Reads the table, checks splits and images, and builds the datasets; once, for its first stage."""
        if self.datasets:
            return
        data = self.settings.data
        self.train_augmentation = self._get_train_transforms(self.cfg)
        self.statistics = image_statistics(self.settings.model)
        self.table, self.source = read_dataset(data)
        self.groups = find_groups(data, self.table, self.source)
        self._say_what_was_read()
        self.splits = find_splits(self.settings, self.table, self.groups)
        self.split_report = check_splits(self.splits, self.table, self.groups)
        for warning in self.split_report.warnings:
            logger.warning(warning)
        self.split_names = self.splits.names_by_row(self.table)
        self._build_datasets(is_fit=stage in (None, "fit"))

    def _say_what_was_read(self) -> None:
        for note in (*self.table.notes, *self.groups.notes):
            logger.info(note)
        sampling = self.settings.data.gps_sampling
        coverage = self.table.gps_coverage
        if sampling.enabled and coverage < sampling.min_coverage:
            logger.warning(
                "Only %.1f %% of the rows have GPS (data.gps_sampling.min_coverage is %.0f %%): the others are drawn "
                "with weight %g wherever they lie, so the sampler steers only a part of training.",
                100 * coverage, 100 * sampling.min_coverage, sampling.missing_weight,
            )  # fmt: skip

    def _build_datasets(self, *, is_fit: bool) -> None:
        data = self.settings.data
        self.ledger = UnreadableLedger(self.table, data.max_unreadable)
        copy = find_copy(data, self.table, self.source) if is_fit else None
        photos = ImageStore(self.source, data.img_size)
        stores = dict.fromkeys(SPLIT_NAMES, photos)
        if is_fit:
            stores["train"] = ImageStore(self.source, data.img_size, scale=TRAINING_SCALE, copy=copy)
            stores["val_select"] = ImageStore(self.source, data.img_size, copy=copy)
        self.ledger.add(photos.find_unreadable(np.flatnonzero(self.split_names != "")))
        rows = {name: self._readable_rows(name) for name in SPLIT_NAMES}
        reads_once = self.settings.training.freeze_backbone and self.leaves_images_alone
        if is_fit and not reads_once and self._fits_ram(sum(len(rows[name]) for name in FITTED_SPLITS)):
            for name in FITTED_SPLITS:  # only a fit reads an image more than once
                self.ledger.add(stores[name].load_into_ram(rows[name]))
        for name in SPLIT_NAMES:
            self.datasets[name] = RoadworkDataset(self.table, self._readable_rows(name), stores[name])

    def _readable_rows(self, split: str) -> np.ndarray:
        rows = np.flatnonzero(self.split_names == split)
        return rows[~np.isin(rows, list(self.ledger.reasons))]

    @property
    def leaves_images_alone(self) -> bool:
        """Whether training batches show the images as they are, so that what a frozen network sees can be kept."""
        return type(self.train_augmentation) is NoAugmentation

    def _fits_ram(self, n_rows: int) -> bool:
        data = self.settings.data
        needed = n_rows * 3 * data.img_size**2
        room = RAM_SHARE * available_bytes() / devices_here(self.settings.training)  # each process keeps its own
        return data.cache == "ram" or (data.cache == "auto" and needed <= room)

    def _get_train_transforms(self, cfg: DictConfig) -> nn.Module:
        """The augmentation of training batches: (images, labels) to (images, labels), on the device."""
        data = to_settings(cfg).data
        return build_train_augmentation(data.augmentation.train, data.img_size)

    def _get_test_gps_coords(self) -> np.ndarray:
        """(M, 2) latitude and longitude in degrees of the deployment."""
        points, self.target_source = find_deployment(self.settings.data, self.table, self.split_names)
        return points

    def _build_train_sampler(self) -> Sampler[int]:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        dataset = self.datasets["train"]
        sampling = self.settings.data.gps_sampling
        mixture = find_mixture(self.settings.data, self.table, dataset.rows)
        if columns := self.settings.data.balance:
            values = balanced_values(self.table, dataset.rows, columns, self.settings.data.class_names)
            balanced = BalancedSampler(
                values, sampling.random_seed, draw=sampling.draw, rank=rank, world_size=world_size
            )
            if self.train_sampler is None:
                balanced.say(columns)
            return balanced
        if not sampling.enabled and mixture is not None:
            return MixtureSampler(mixture, sampling.random_seed, draw=sampling.draw, rank=rank, world_size=world_size)
        if not sampling.enabled:
            return UniformSampler(
                dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=sampling.random_seed, drop_last=True
            )
        points = self._get_test_gps_coords()
        sampler = build_gps_sampler(sampling, dataset, points, mixture, rank=rank, world_size=world_size)
        if self.train_sampler is None:  # said once, not for each loader
            logger.info("GPS sampling aims at %s.\n%s", self.target_source, sampler.summary())
            if unreachable := unreachable_targets(points, dataset.gps):
                logger.warning(unreachable)
        return sampler

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        self.train_sampler = self._build_train_sampler()
        loader = self._loader("train", self.train_sampler)
        loader.trainer = self.trainer  # so that it goes on inside an epoch
        return loader

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The batches of `val_select`, the split that selects the checkpoint."""
        return self.dataloader_for("val_select")

    def dataloader_for(self, split: str) -> DataLoader[dict[str, Any]]:
        """Each row of a split once, in order, shared among the ranks without repeats.

        A rank that is left without a row has the first one, marked as a repeat: Lightning wants a batch of each.
        """
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        rows = range(rank, len(self.datasets[split]), world_size)
        loader = self._loader(split, rows or range(1))
        loader.is_repeat = not rows
        return loader

    def _loader(self, split: str, sampler: Sampler[int] | range) -> ResumableLoader:
        dataset = self.datasets[split]
        settings = self.settings.data.dataloader
        workers = self._choose_workers(dataset.store)
        on_gpu = torch.cuda.is_available() and self.settings.training.accelerator != "cpu"
        return ResumableLoader(
            dataset,  # type: ignore[arg-type]  # its items become dicts in collate
            batch_size=settings.fixed_batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=ignore_interrupts,
            prefetch_factor=settings.prefetch_factor if workers else None,
            persistent_workers=settings.persistent_workers and workers > 0,
            pin_memory=on_gpu if settings.pin_memory is None else settings.pin_memory,
        )

    def _choose_workers(self, store: ImageStore) -> int:
        workers = self.settings.data.dataloader.num_workers
        if workers >= 0:
            return workers
        each = max(1, cpu_count() // devices_here(self.settings.training))
        return 0 if store.loaded is not None else min(MAX_WORKERS, each)

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        del dataloader_idx
        self.ledger.add(batch.pop("unreadable"))
        if len(batch["index"]) == 0:
            raise DataError("No image of a whole batch could be read; they are listed above. Mend or remove them.")
        return batch

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        del dataloader_idx
        where = batch.pop("epoch", None), batch.pop("position", None)
        images, labels = to_unit_range(batch["image"]), batch["label"]
        if self.trainer is not None and self.trainer.training:
            with self._draws_of(images.device, *where):
                images, labels = self.augment(images, labels)
        return batch | {"image": self.normalise(images), "label": labels}

    def _draws_of(self, device: torch.device, epoch: int | None, position: int | None) -> AbstractContextManager[None]:
        if self.trainer is None or epoch is None or position is None:  # a loader of the user's own
            return nullcontext()
        return repeatable_draws(device, self.settings.training.seed, epoch, position, self.trainer.global_rank)

    def distances_to_deployment_km(self) -> np.ndarray:
        """(N,) kilometres from each row of the table to the nearest deployment centre, NaN without GPS.

        All are NaN where sampling is off and nothing says where the deployment is.
        """
        sampling = self.settings.data.gps_sampling
        first_edge_km = parse_brackets(sampling.weight_brackets).edges_km[1]
        try:
            points = self._get_test_gps_coords()
        except ConfigError:
            if sampling.enabled:
                raise
            return np.full(len(self.table), np.nan)
        clusters = cluster_deployment(points, sampling.n_clusters, float(first_edge_km), sampling.random_seed)
        return nearest_km(self.table.gps, clusters.centers_deg)[0]

    @torch.no_grad()
    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Applies the training augmentation to images in [0, 1]."""
        if self.train_augmentation is None:
            raise DataError("The data module has no augmentation yet: call setup() first.")
        augmented: tuple[Tensor, Tensor] = self.train_augmentation.to(images.device)(images, labels)
        return augmented

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the backbone was trained to see them: its own mean and standard deviation."""
        return normalise(images, self.statistics)
