"""Features of a frozen backbone, computed once, and a data module of features."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedModel
from typing_extensions import override

from roadwork.core.devices import choose_device
from roadwork.core.errors import ConfigError, DataError
from roadwork.core.files import atomic_path, cache_folder
from roadwork.core.progress import track
from roadwork.data.datamodule import FITTED_SPLITS, NATIXDataModule
from roadwork.data.dataset import ImageStore, ResumableLoader, RoadworkDataset, UnreadableLedger, collate
from roadwork.data.images import EVALUATION_SCALE, READER_VERSION, ImageSource, identify_image, to_network_input
from roadwork.data.source import dataset_key
from roadwork.models.classifier import has_patch_scores
from roadwork.models.head import in_evaluation_mode, without_head
from roadwork.models.processor import image_statistics
from roadwork.settings import Settings

logger = logging.getLogger(__name__)

DEFAULT_BATCH_SIZE = 32


# Row id to (fingerprint of its file, its features).
_Known = dict[str, tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Features:
    """Frozen features of n rows.

    Attributes:
        rows: (n,) int64, the readable ones of the requested rows of the table.
        values: (n, D) float32.
        backbone: SHA-256 over the backbone's weights, its configuration, and the reading and preparing of its images.
    """

    rows: np.ndarray
    values: np.ndarray
    backbone: str

    def of(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows), D) float32 of these rows; each must be in `self.rows`."""
        order = np.argsort(self.rows)
        return self.values[order[np.searchsorted(self.rows, rows, sorter=order)]]


def compute_features(
    network: PreTrainedModel, settings: Settings, ledger: UnreadableLedger, source: ImageSource, rows: np.ndarray
) -> Features:
    """The inputs of the network's head for these rows, without augmentation and in evaluation mode.

    Photos are read as for evaluation, whatever training reads. The user's cache folder keeps the features, in one file
    per dataset and backbone; rows whose images have changed are computed again.

    Args:
        network: a classifier; its weights and modes do not change.
        settings: the size and normalisation of images, and the device.
        ledger: collects unreadable images; its table has the rows' ids.
        source: the images.
        rows: (n,) int64 rows of the ledger's table.

    Raises:
        ConfigError: the network has no head.
        DataError: more images than allowed cannot be read.
    """
    if has_patch_scores(network):
        raise ConfigError(
            "model.pooling=top_patches scores patches, so a photo has no features to compute once. "
            "Allowed here: auto, cls, mean, cls_mean."
        )
    with without_head(network), in_evaluation_mode(network):
        identity = _identify_backbone(network, settings)
        path = cache_folder() / "features" / f"{dataset_key(settings.data)}-{identity[:16]}.npz"
        ids = ledger.table.ids[rows].tolist()
        files = dict(zip(ids, (identify_image(source, int(row)) for row in rows), strict=True))
        known = _read_cache(path)
        current = np.array([row_id in known and known[row_id][0] == files[row_id] for row_id in ids], dtype=bool)
        if known:
            _log_cache_hits(path, ids, known, current)
        if not current.all():
            known = {row_id: entry for row_id, entry in known.items() if files.get(row_id, entry[0]) == entry[0]}
            try:
                for row, values in _run_backbone(network, settings, ledger, source, rows[~current]):
                    row_id = str(ledger.table.ids[row])
                    known[row_id] = (files[row_id], values)
            finally:  # keeps the features of an interrupted computation
                _write_cache(path, known)
    readable = np.array([row_id in known for row_id in ids], dtype=bool)
    if not readable.any():
        raise DataError("None of the images could be read. Check data.root, or fix the images.")
    values = np.stack([known[row_id][1] for row_id in ledger.table.ids[rows[readable]].tolist()])
    return Features(rows[readable], values, identity)


@torch.no_grad()
def _run_backbone(
    backbone: PreTrainedModel, settings: Settings, ledger: UnreadableLedger, source: ImageSource, rows: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields each readable row with its features (D,)."""
    started = time.monotonic()
    home = next(backbone.parameters()).device
    device = choose_device("cpu" if settings.training.accelerator == "cpu" else "auto")
    statistics = image_statistics(settings.model)
    dataloader = settings.data.dataloader
    loader: DataLoader[dict[str, Any]] = DataLoader(
        RoadworkDataset(ledger.table, rows, ImageStore(source, settings.data.img_size)),  # type: ignore[arg-type]  # its items become dicts in collate
        batch_size=DEFAULT_BATCH_SIZE if dataloader.batch_size == "auto" else dataloader.fixed_batch_size,
        collate_fn=collate,
        # On a CPU, decoding processes would take cores from the backbone.
        num_workers=dataloader.num_workers if dataloader.num_workers >= 0 else 0 if device.type == "cpu" else 8,
        # The default is the global generator: a run would then depend on whether its features were in the cache.
        generator=torch.Generator(),
    )
    backbone.to(device)
    try:
        for batch in track(loader, len(loader), "Computing features, in batches"):
            ledger.add(batch["unreadable"])
            if len(batch["index"]) == 0:
                continue
            images = to_network_input(batch["image"].to(device), statistics)
            values = backbone(pixel_values=images).logits.float().cpu().numpy()
            yield from zip(batch["index"].tolist(), values, strict=True)
    finally:
        backbone.to(home)
    logger.info("Computed the features of %d images in %.1f s.", len(rows), time.monotonic() - started)


def _identify_backbone(backbone: PreTrainedModel, settings: Settings) -> str:
    digest = hashlib.sha256()
    config = {key: value for key, value in backbone.config.to_dict().items() if key not in ("_name_or_path", "dtype")}
    reading = (READER_VERSION, EVALUATION_SCALE, settings.data.img_size, image_statistics(settings.model))
    digest.update(repr((sorted(config.items()), *reading)).encode())
    for name, tensor in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().numpy().data)
    return digest.hexdigest()


def _read_cache(path: Path) -> _Known:
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            columns = (stored["ids"].tolist(), stored["files"].tolist(), stored["values"])
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        logger.warning("%s cannot be read (%s). The features are computed again.", path, error)
        return {}
    return {row_id: (file, values) for row_id, file, values in zip(*columns, strict=True)}


def _write_cache(path: Path, known: _Known) -> None:
    if not known:
        return
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            ids=np.array(list(known), dtype=str),
            files=np.array([entry[0] for entry in known.values()], dtype=str),
            values=np.stack([entry[1] for entry in known.values()]),
        )


def _log_cache_hits(path: Path, ids: list[str], known: _Known, current: np.ndarray) -> None:
    n_changed = sum(row_id in known for row_id in ids) - int(current.sum())
    n_new = len(ids) - int(current.sum()) - n_changed
    logger.info("%d of %d rows have features in %s.", current.sum(), len(ids), path)
    if n_changed or n_new:
        logger.info("%d images have changed since and %d are new. Their features are computed.", n_changed, n_new)


class FeatureDataset(Dataset[dict[str, Tensor]]):
    """The rows of a split that have features.

    It returns whole batches: `features` (B, D) float32, `label` and `index` (B,) int64, the rows of the whole table.
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
    """Batches of `train` and `val_select` as in a fit of `photos`, with features in place of images.

    Args:
        photos: set up for a fit.
        features: features of the rows of `train` and `val_select`.
    """

    def __init__(self, photos: NATIXDataModule, features: Features) -> None:
        super().__init__(photos.cfg)
        self.photos = photos
        self.backbone = features.backbone
        self.settings = photos.settings
        self.table = photos.table
        self.datasets = {split: FeatureDataset(photos.datasets[split], features) for split in FITTED_SPLITS}  # type: ignore[misc]  # samplers and loaders need no more

    @override
    def setup(self, stage: str | None = None) -> None:
        """Does nothing: the photos' module is set up."""

    @override
    def _get_test_gps_coords(self) -> np.ndarray:
        points = self.photos._get_test_gps_coords()  # noqa: SLF001 -- users override it
        self.target_source = self.photos.target_source
        return points

    @override
    def _loader(self, split: str, sampler: Sampler[int] | range) -> ResumableLoader:
        return ResumableLoader(
            self.datasets[split],  # type: ignore[arg-type]  # it returns whole batches
            batch_size=self.settings.data.dataloader.fixed_batch_size,
            sampler=sampler,
            collate_fn=_identity,
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
                "The run started with features of other weights, or of another image reader: the weights of "
                "model.name, or roadwork itself, have changed since. Restore them, or train without --resume."
            )


def _identity(batch: Any) -> Any:
    return batch
