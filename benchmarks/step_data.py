"""A work's tensors as our data module gives them."""

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
    """The data module over a work's tensors, as if it had read them into RAM."""

    def __init__(self, cfg: DictConfig, work: Work) -> None:
        super().__init__(cfg)
        self.work = work

    @override
    def setup(self, stage: str | None = None) -> None:
        n_train = len(self.work.labels)
        rows = np.arange(n_train + self.work.batch)  # validation is one batch more
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
    """Gives images as a prepared copy does; from its end it begins again."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def image(self, row: int, size: int) -> np.ndarray:
        del size
        pixels: np.ndarray = self.images[row % len(self.images)].permute(1, 2, 0).numpy()
        return pixels
