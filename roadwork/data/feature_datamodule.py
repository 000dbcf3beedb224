"""Batches of frozen features, in the order and size in which a data module gives its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from typing_extensions import override

from roadwork.data.datamodule import FITTED_SPLITS, NATIXDataModule
from roadwork.data.dataset import RoadworkDataset
from roadwork.data.features import Features
from roadwork.data.loader import ResumableLoader
from roadwork.errors import DataError


class FeatureDataset(Dataset[dict[str, Tensor]]):
    """Those rows of a split that have features.

    It gives whole batches: `features` (B, D) float32, `label` and `index` (B,) int64, the rows of the whole table.
    """

    def __init__(self, photos: RoadworkDataset, features: Features) -> None:
        known = np.isin(photos.rows, features.rows)
        self.rows = photos.rows[known]
        self.labels = photos.labels[known]
        self.gps = photos.gps[known]
        """(N, 2) latitude, longitude in degrees, NaN where missing; what samplers read."""
        self.features = torch.from_numpy(features.of(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        labels, rows = (torch.from_numpy(values[indices].astype(np.int64)) for values in (self.labels, self.rows))
        return {"features": self.features[indices], "label": labels, "index": rows}


class FeatureDataModule(NATIXDataModule):
    """Gives `train` and `val_select` as a fit of `photos` would, with the images' features in their place.

    Args:
        photos: set up for a fit.
        features: of the rows of `train` and `val_select`.
    """

    def __init__(self, photos: NATIXDataModule, features: Features) -> None:
        super().__init__(photos.cfg)
        self.photos = photos
        self.backbone = features.backbone
        self.settings = photos.settings
        self.table = photos.table
        self.train_sampler = photos.train_sampler
        self.datasets = {split: FeatureDataset(photos.datasets[split], features) for split in FITTED_SPLITS}  # type: ignore[misc]  # it has what samplers and loaders read

    @override
    def _get_test_gps_coords(self) -> np.ndarray:
        points = self.photos._get_test_gps_coords()  # noqa: SLF001 -- a seam that users override
        self.target_source = self.photos.target_source
        return points

    @override
    def _loader(self, split: str, sampler: Sampler[int] | range) -> ResumableLoader:
        return ResumableLoader(
            self.datasets[split],  # type: ignore[arg-type]  # it gives whole batches
            batch_size=self.settings.data.dataloader.batch_size,
            sampler=sampler,
            collate_fn=_as_it_is,
        )

    @override
    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        return batch

    @override
    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        return batch

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"backbone": self.backbone}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["backbone"] != self.backbone:
            raise DataError(
                "The run was begun on features of other backbone weights, or of images read in another way: those of "
                "model.name, or roadwork itself, have changed since. Restore them, or train without --resume."
            )


def _as_it_is(batch: Any) -> Any:
    return batch
