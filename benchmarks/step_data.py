"""Our data module over the in-memory tensors of a `Work`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from torch import Tensor
from typing_extensions import override

from benchmarks.step_work import Work
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.dataset import ImageStore, RoadworkDataset, UnreadableLedger
from roadwork.data.splitting.splits import Splits
from roadwork.data.table import SampleTable
from roadwork.models.processor import image_statistics
from roadwork.settings import SPLIT_NAMES


class TensorDataModule(NATIXDataModule):
    """A data module whose RAM cache holds the tensors of a `Work`."""

    def __init__(self, cfg: DictConfig, work: Work) -> None:
        super().__init__(cfg)
        self.work = work

    @override
    def setup(self, stage: str | None = None) -> None:
        n_train = len(self.work.labels)
        rows = np.arange(n_train + self.work.batch)  # plus one batch for validation
        ids, blank = rows.astype(str).astype(object), np.full(len(rows), "", dtype=object)
        labels = np.resize(self.work.labels.numpy(), len(rows))
        gps = np.full((len(rows), 2), np.nan)
        self.table = SampleTable(ids, ids, labels, gps, blank, pd.DataFrame(index=rows))
        self.splits = Splits({name: [] for name in SPLIT_NAMES})
        self.ledger = UnreadableLedger(self.table, 0.0)
        self.statistics = image_statistics(self.settings.model)
        self.train_augmentation = self._get_train_transforms(self.cfg)
        store = ImageStore(None, self.settings.data.img_size, copy=_Tensors(self.work.images))  # type: ignore[arg-type]
        store.load_into_ram(rows)
        self.datasets = {
            "train": RoadworkDataset(self.table, rows[:n_train], store),
            "val_select": RoadworkDataset(self.table, rows[n_train:], store),
        }


class _Tensors:
    """A stand-in for a prepared copy. Row numbers wrap around at the end."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def image(self, row: int, size: int) -> np.ndarray:
        del size
        pixels: np.ndarray = self.images[row % len(self.images)].permute(1, 2, 0).numpy()
        return pixels
