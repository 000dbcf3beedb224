"""What a frozen backbone sees in each image, computed once and kept."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from roadwork.data.dataset import ImageStore, RoadworkDataset, UnreadableLedger, collate
from roadwork.data.image_identity import identify_image
from roadwork.data.images import EVALUATION_SCALE, READER_VERSION, ImageSource
from roadwork.data.pixels import to_network_input
from roadwork.data.source import dataset_key
from roadwork.errors import DataError
from roadwork.models.head import in_evaluation_mode, without_head
from roadwork.models.processor import image_statistics
from roadwork.progress import track
from roadwork.runs import atomic_path, cache_folder
from roadwork.settings import Settings

logger = logging.getLogger(__name__)

# Row id to (what its file was like, its features).
_Known = dict[str, tuple[str, np.ndarray]]


DEFAULT_BATCH_SIZE = 32


@dataclass(frozen=True)
class Features:
    """Frozen features of n rows.

    Attributes:
        rows: (n,) int64 rows of the table; those that were asked for and can be read.
        values: (n, D) float32.
        backbone: SHA-256 over the backbone's weights, its configuration and how its images are read and prepared.
    """

    rows: np.ndarray
    values: np.ndarray
    backbone: str

    def of(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows), D) float32 of these rows, all of which must be among its own."""
        order = np.argsort(self.rows)
        return self.values[order[np.searchsorted(self.rows, rows, sorter=order)]]


def compute_features(
    network: PreTrainedModel, settings: Settings, ledger: UnreadableLedger, source: ImageSource, rows: np.ndarray
) -> Features:
    """What the network's head would be given for each of these rows, without augmentation and in evaluation mode.

    The photos are read at the scale of evaluation, whatever training reads. The features are kept in the user's cache
    folder, one file for each dataset and backbone; a row whose image has changed since is computed again.

    Args:
        network: a classifier; its weights and modes stay as they are.
        settings: the size of images, how they are normalised, and where it is computed.
        ledger: names the rows, and takes down those that cannot be read.
        source: their images.
        rows: (n,) int64 rows of the ledger's table.

    Raises:
        ConfigError: the network has no head.
        DataError: more images than allowed cannot be read.
    """
    with without_head(network), in_evaluation_mode(network):
        identity = _identify_backbone(network, settings)
        path = cache_folder() / "features" / f"{dataset_key(settings.data)}-{identity[:16]}.npz"
        ids = ledger.table.ids[rows].tolist()
        files = dict(zip(ids, (identify_image(source, int(row)) for row in rows), strict=True))
        known = _read_cache(path)
        current = np.array([row_id in known and known[row_id][0] == files[row_id] for row_id in ids], dtype=bool)
        if known:
            _say_what_is_known(path, ids, known, current)
        if not current.all():
            known = {row_id: entry for row_id, entry in known.items() if files.get(row_id, entry[0]) == entry[0]}
            try:
                for row, values in _run_backbone(network, settings, ledger, source, rows[~current]):
                    row_id = str(ledger.table.ids[row])
                    known[row_id] = (files[row_id], values)
            finally:  # what an interrupted computation has done is kept
                _write_cache(path, known)
    readable = np.array([row_id in known for row_id in ids], dtype=bool)
    if not readable.any():
        raise DataError("None of the images could be read. Check data.root, or mend the images.")
    values = np.stack([known[row_id][1] for row_id in ledger.table.ids[rows[readable]].tolist()])
    return Features(rows[readable], values, identity)


@torch.no_grad()
def _run_backbone(
    backbone: PreTrainedModel, settings: Settings, ledger: UnreadableLedger, source: ImageSource, rows: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Each readable row with its features (D,)."""
    started = time.monotonic()
    home, device = next(backbone.parameters()).device, choose_device(settings.training.accelerator)
    statistics = image_statistics(settings.model)
    dataloader = settings.data.dataloader
    loader: DataLoader[dict[str, Any]] = DataLoader(
        RoadworkDataset(ledger.table, rows, ImageStore(source, settings.data.img_size)),  # type: ignore[arg-type]  # its items become dicts in collate
        batch_size=DEFAULT_BATCH_SIZE if dataloader.batch_size == "auto" else dataloader.batch_size,
        collate_fn=collate,
        # On a CPU, processes that decode would take the cores from the backbone.
        num_workers=dataloader.num_workers if dataloader.num_workers >= 0 else 0 if device.type == "cpu" else 8,
        # Else it would draw from the global one, and a run would depend on whether its features were known.
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


def choose_device(accelerator: str) -> torch.device:
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator == "cpu" or found is None else found


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
