"""The splits of a dataset as a LightningDataModule: sampled towards the deployment, augmented on the device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import lightning as L
import numpy as np
import torch
from joblib import cpu_count
from lightning.pytorch.trainer.states import TrainerFn
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from roadwork.config import compose_config, to_settings
from roadwork.core.devices import available_bytes, choose_device, devices_here
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
from roadwork.data.deployment import find_deployment
from roadwork.data.images import TRAINING_SCALE, normalise, to_unit_range
from roadwork.data.mixed_datasets import find_mixture
from roadwork.data.open import open_dataset
from roadwork.data.prepared.copy import find_copy
from roadwork.data.samplers.build import UniformSampler, build_train_sampler
from roadwork.data.samplers.clusters import cluster_deployment
from roadwork.data.samplers.stratified_sampler import StratifiedSampler
from roadwork.data.samplers.weights import parse_brackets
from roadwork.data.utils.geo import nearest_km
from roadwork.models.processor import image_statistics
from roadwork.settings.sampling import SELECTION_SPLIT, SPLIT_NAMES, TEST_SPLIT, TRAIN_SPLIT, VALIDATION_SPLITS

logger = logging.getLogger(__name__)

# With data.cache=auto, images go to RAM if they need at most this share of the available memory.
RAM_SHARE = 0.25
MAX_WORKERS = 16
# The splits that a fit reads in every epoch.
FITTED_SPLITS = (TRAIN_SPLIT, SELECTION_SPLIT)


class NATIXDataModule(L.LightningDataModule):
    """The four splits of a dataset.

    Batches are dicts: `image` (B, 3, S, S) float, normalised; `label` (B,) int64, or soft (B, 2) if the augmentation
    mixes images; `index` (B,) rows of `table`.

    A fit reads `train` and `val_select` from RAM or the resized copy if it can. Validation, test and prediction read
    the photos, as a deployed detector does.

    Users override two methods: `_get_train_transforms` and `_get_test_gps_coords`.

    Attributes:
        settings: the composed configuration.
        datasets: the dataset of each split; after `setup("fit")`, as a fit reads them.
        predict_splits: the splits that `predict_dataloader` reads.
        train_sampler: the sampler of the latest training loader.
        train_augmentation: (images, labels) to (images, labels).
        table, source, groups, splits, split_report, split_names: see `roadwork.data.open.Dataset`.
        ledger: the unreadable images.
        statistics: the mean and standard deviation that the backbone expects.
    """

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__()
        self.cfg = compose_config(cfg)
        self.settings = to_settings(self.cfg)
        self.datasets: dict[str, RoadworkDataset] = {}
        self.predict_splits: Sequence[str] = VALIDATION_SPLITS
        self.train_sampler: Sampler[int] | None = None
        self.train_augmentation: nn.Module | None = None
        self.target_source = "points of your own"
        self._photo_datasets: dict[str, RoadworkDataset] = {}
        self._is_ready_to_fit = False

    def setup(self, stage: str | None = None) -> None:
        """Opens the dataset once; for `fit`, or without a stage, also finds the resized copy and fills the RAM cache.

        Raises:
            RoadworkError: the configuration, the data or the splits cannot be used.
        """
        if not self._photo_datasets:
            self._open()
        if stage in (None, "fit") and not self._is_ready_to_fit:
            self._prepare_fit()
            self._is_ready_to_fit = True

    def _open(self) -> None:
        data = self.settings.data
        self.train_augmentation = self._get_train_transforms(self.cfg)  # refuses unknown modes before data is read
        self.statistics = image_statistics(self.settings.model)
        dataset = open_dataset(self.settings)
        self.table, self.source, self.groups = dataset.table, dataset.source, dataset.groups
        self._log_dataset_summary()
        self.splits, self.split_report, self.split_names = dataset.splits, dataset.report, dataset.split_names
        for warning in self.split_report.warnings:
            logger.warning(warning)
        self.ledger = UnreadableLedger(self.table, data.max_unreadable)
        photos = ImageStore(self.source, data.img_size)
        self.ledger.add(photos.find_unreadable(np.flatnonzero(self.split_names != "")))
        self._photo_datasets = {name: self._make_dataset(name, photos) for name in SPLIT_NAMES}
        self.datasets = dict(self._photo_datasets)

    def _log_dataset_summary(self) -> None:
        for note in (*self.table.notes, *self.groups.notes):
            logger.info(note)
        sampling = self.settings.data.gps_sampling
        coverage = self.table.gps_coverage
        if sampling.enabled and coverage < sampling.min_coverage:
            logger.warning(
                "Only %.1f %% of the rows have GPS (data.gps_sampling.min_coverage is %.0f %%). The others have weight "
                "%g wherever they are, so the sampler steers only a part of training.",
                100 * coverage, 100 * sampling.min_coverage, sampling.missing_weight,
            )  # fmt: skip

    def _prepare_fit(self) -> None:
        data = self.settings.data
        copy = find_copy(data, self.table, self.source)
        stores = {
            TRAIN_SPLIT: ImageStore(self.source, data.img_size, scale=TRAINING_SCALE, copy=copy),
            SELECTION_SPLIT: ImageStore(self.source, data.img_size, copy=copy),
        }
        rows = {name: self._readable_rows(name) for name in FITTED_SPLITS}
        # A frozen backbone sees an unchanged image once: its features are kept.
        reads_once = self.settings.training.freeze_backbone and self.is_identity_augmentation
        if not reads_once and self._fits_ram(sum(map(len, rows.values()))):
            for name in FITTED_SPLITS:
                self.ledger.add(stores[name].load_into_ram(rows[name]))
        self.datasets |= {name: self._make_dataset(name, stores[name]) for name in FITTED_SPLITS}

    def _make_dataset(self, split: str, store: ImageStore) -> RoadworkDataset:
        return RoadworkDataset(self.table, self._readable_rows(split), store)

    def _readable_rows(self, split: str) -> np.ndarray:
        rows = np.flatnonzero(self.split_names == split)
        return rows[~np.isin(rows, list(self.ledger.reasons))]

    def _fits_ram(self, n_rows: int) -> bool:
        data = self.settings.data
        needed = n_rows * 3 * data.img_size**2
        room = RAM_SHARE * available_bytes() / self._n_devices  # each process has its own cache
        return data.cache == "ram" or (data.cache == "auto" and needed <= room)

    @property
    def _n_devices(self) -> int:
        return devices_here(self.settings.training.devices, self.settings.training.accelerator)

    @property
    def is_identity_augmentation(self) -> bool:
        """Whether training batches show the images unchanged, so that a frozen network's features can be kept."""
        return type(self.train_augmentation) is NoAugmentation

    def _get_train_transforms(self, cfg: DictConfig) -> nn.Module:
        """The augmentation of training batches: (images, labels) to (images, labels), on the device."""
        data = to_settings(cfg).data
        return build_train_augmentation(data.augmentation.train, data.img_size)

    def _get_test_gps_coords(self) -> np.ndarray:
        """(M, 2) latitude and longitude in degrees of the deployment."""
        points, self.target_source = find_deployment(self.settings.data, self.table, self.split_names)
        return points

    def _locate_deployment(self) -> tuple[np.ndarray, str]:
        points = self._get_test_gps_coords()
        return points, self.target_source

    @cached_property
    def _single_process_sampler(self) -> StratifiedSampler | UniformSampler:
        data, dataset = self.settings.data, self.datasets[TRAIN_SPLIT]
        mixture = find_mixture(data, self.table, dataset.rows)
        return build_train_sampler(data, self.table, dataset, mixture, self._locate_deployment)

    def _build_train_sampler(self) -> Sampler[int]:
        return self._single_process_sampler.for_rank(*self._rank_and_world_size)

    @property
    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The training batches of an epoch, as the sampler draws them."""
        self.train_sampler = self._build_train_sampler()
        loader = self._loader(TRAIN_SPLIT, self.train_sampler)
        loader.trainer = self.trainer  # a resumed fit continues inside an epoch
        return loader

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The batches of `val_select`, the split that selects the checkpoint."""
        return self.dataloader_for(SELECTION_SPLIT)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The batches of `val_test`, with a warning: only `roadwork evaluate` counts its openings."""
        logger.warning(
            "The labels of %s are opened, and this opening is not counted. Each one biases later choices; "
            "`roadwork evaluate` counts the openings of a run.",
            TEST_SPLIT,
        )
        return self.dataloader_for(TEST_SPLIT)

    def predict_dataloader(self) -> list[DataLoader[dict[str, Any]]]:
        """A loader for each of `predict_splits`."""
        return [self.dataloader_for(split) for split in self.predict_splits]

    def dataloader_for(self, split: str) -> DataLoader[dict[str, Any]]:
        """The rows of a split in order, each on one rank only.

        A rank without rows gets the first row, marked as a repeat, because Lightning needs a batch from each rank.
        """
        rank, world_size = self._rank_and_world_size
        rows = range(rank, len(self._dataset(split)), world_size)
        loader = self._loader(split, rows or range(1))
        loader.is_repeat = not rows
        return loader

    def _dataset(self, split: str) -> RoadworkDataset:
        is_fit = self.trainer is None or self.trainer.state.fn in (None, TrainerFn.FITTING)
        return (self.datasets if is_fit else self._photo_datasets)[split]

    def _loader(self, split: str, sampler: Sampler[int] | range) -> ResumableLoader:
        dataset = self._dataset(split)
        settings = self.settings.data.dataloader
        workers = self._choose_workers(dataset.store)
        on_gpu = self.settings.training.accelerator != "cpu" and choose_device().type == "cuda"
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
        return 0 if store.loaded is not None else min(MAX_WORKERS, max(1, cpu_count() // self._n_devices))

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Notes the unreadable images of a batch."""
        del dataloader_idx
        self.ledger.add(batch.pop("unreadable"))
        if len(batch["index"]) == 0:
            raise DataError("No image of a whole batch could be read; see the list above. Fix or remove them.")
        return batch

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Augments training images, and normalises all."""
        del dataloader_idx
        epoch, position = batch.pop("epoch", None), batch.pop("position", None)
        images, labels = to_unit_range(batch["image"]), batch["label"]
        if self.trainer is not None and self.trainer.training:
            with self._rng_scope(images.device, epoch, position):
                images, labels = self.augment(images, labels)
        return batch | {"image": self.normalise(images), "label": labels}

    def _rng_scope(self, device: torch.device, epoch: int | None, position: int | None) -> AbstractContextManager[None]:
        if self.trainer is None or epoch is None or position is None:  # not from one of our loaders
            return nullcontext()
        return repeatable_draws(device, self.settings.training.seed, epoch, position, self.trainer.global_rank)

    @torch.no_grad()
    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Applies the training augmentation to images in [0, 1]."""
        if self.train_augmentation is None:
            raise DataError("The data module has no augmentation yet: call setup() first.")
        augmented: tuple[Tensor, Tensor] = self.train_augmentation.to(images.device)(images, labels)
        return augmented

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 1] less the backbone's mean, divided by its standard deviation."""
        return normalise(images, self.statistics)

    def distances_to_deployment_km(self) -> np.ndarray:
        """(N,) km from each row of the table to the nearest deployment centre, NaN without GPS.

        All are NaN if sampling is off and the configuration gives no deployment.
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
