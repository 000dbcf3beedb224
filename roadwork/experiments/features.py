"""What a frozen backbone sees in each image, computed once and kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from roadwork.data.dataset import ImageStore, RoadworkDataset, UnreadableLedger, collate
from roadwork.data.image_identity import identify_image
from roadwork.data.images import ImageSource
from roadwork.data.source import dataset_key
from roadwork.data.table import SampleTable
from roadwork.errors import DataError
from roadwork.models.build import build_model
from roadwork.models.head import find_head
from roadwork.models.processor import image_statistics
from roadwork.progress import track
from roadwork.runs import atomic_path, cache_folder
from roadwork.settings import Settings

logger = logging.getLogger(__name__)

# Row id to (what its file was like, its features).
_Known = dict[str, tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Features:
    """Frozen features of n rows.

    Attributes:
        rows: (n,) int64 rows of the table; those that were asked for and can be read.
        values: (n, D) float32.
        backbone: SHA-256 over the backbone's weights, its configuration and how its images are prepared.
    """

    rows: np.ndarray
    values: np.ndarray
    backbone: str


def compute_features(settings: Settings, table: SampleTable, source: ImageSource, rows: np.ndarray) -> Features:
    """The features of these rows, without augmentation: what the configured network's head would be given.

    They are kept in the user's cache folder, one file for each dataset and backbone; a row whose image has changed
    since is computed again. Without pretrained weights the backbone is random, drawn from `training.seed`.

    Args:
        settings: the model, the size of images, and how many may be unreadable.
        table: names the rows.
        source: their images.
        rows: (n,) int64 rows of the table.

    Raises:
        ConfigError: the model cannot be built.
        DataError: more images than allowed cannot be read.
    """
    backbone = build_backbone(settings)
    identity = _identify_backbone(backbone, settings)
    path = cache_folder() / "features" / f"{dataset_key(settings.data)}-{identity[:16]}.npz"
    ids = table.ids[rows].tolist()
    files = dict(zip(ids, (identify_image(source, int(row)) for row in rows), strict=True))
    known = _read_cache(path)
    current = np.array([row_id in known and known[row_id][0] == files[row_id] for row_id in ids], dtype=bool)
    if known:
        _say_what_is_known(path, ids, known, current)
    if not current.all():
        ledger = UnreadableLedger(table, settings.data.max_unreadable)
        known = {row_id: entry for row_id, entry in known.items() if files.get(row_id, entry[0]) == entry[0]}
        try:
            for row, values in _run_backbone(backbone, settings, ledger, source, rows[~current]):
                row_id = str(table.ids[row])
                known[row_id] = (files[row_id], values)
        finally:  # what an interrupted computation has done is kept
            _write_cache(path, known)
    readable = np.array([row_id in known for row_id in ids], dtype=bool)
    if not readable.any():
        raise DataError("None of the experiment's images could be read. Check data.root, or mend the images.")
    values = np.stack([known[row_id][1] for row_id in table.ids[rows[readable]].tolist()])
    return Features(rows[readable], values, identity)


def build_backbone(settings: Settings) -> PreTrainedModel:
    """The configured network in evaluation mode; its `.logits` (B, D) are what its head would be given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        network = build_model(settings.model, settings.data.img_size)
    setattr(network, find_head(network), nn.Flatten())
    return network.eval()


@torch.inference_mode()
def _run_backbone(
    backbone: PreTrainedModel, settings: Settings, ledger: UnreadableLedger, source: ImageSource, rows: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Each readable row with its features (D,)."""
    device = _choose_device(settings.training.accelerator)
    statistics = image_statistics(settings.model)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (statistics.mean, statistics.std))
    backbone = backbone.to(device)
    n_workers = settings.data.dataloader.num_workers
    loader: DataLoader[dict[str, Any]] = DataLoader(
        RoadworkDataset(ledger.table, rows, ImageStore(source, settings.data.img_size)),  # type: ignore[arg-type]  # its items become dicts in collate
        batch_size=settings.data.dataloader.batch_size,
        collate_fn=collate,
        # On a CPU, processes that decode would take the cores from the backbone.
        num_workers=n_workers if n_workers >= 0 else 0 if device.type == "cpu" else 8,
    )
    for batch in track(loader, len(loader), "Computing features, in batches"):
        ledger.add(batch["unreadable"])
        if len(batch["index"]) == 0:
            continue
        images = batch["image"].to(device).float().div_(255)
        values = backbone(pixel_values=(images - mean) / std).logits.float().cpu().numpy()
        yield from zip(batch["index"].tolist(), values, strict=True)


def _choose_device(accelerator: str) -> torch.device:
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator == "cpu" or found is None else found


def _identify_backbone(backbone: PreTrainedModel, settings: Settings) -> str:
    digest = hashlib.sha256()
    config = {key: value for key, value in backbone.config.to_dict().items() if key not in ("_name_or_path", "dtype")}
    digest.update(repr((sorted(config.items()), settings.data.img_size, image_statistics(settings.model))).encode())
    for name, tensor in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _read_cache(path: Path) -> _Known:
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            columns = (stored["ids"].tolist(), stored["files"].tolist(), stored["values"])
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        logger.warning("%s cannot be read (%s): the features are computed again.", path, error)
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


def _say_what_is_known(path: Path, ids: list[str], known: _Known, current: np.ndarray) -> None:
    n_changed = sum(row_id in known for row_id in ids) - int(current.sum())
    n_new = len(ids) - int(current.sum()) - n_changed
    logger.info("%d of %d rows have their features in %s.", current.sum(), len(ids), path)
    if n_changed or n_new:
        logger.info("%d images have changed since and %d are new: their features are computed.", n_changed, n_new)
