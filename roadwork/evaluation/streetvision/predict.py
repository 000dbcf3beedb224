"""A run's network on challenge pictures."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import torch
from joblib import cpu_count
from torch import Tensor, nn

from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.dataset import UnreadableImage
from roadwork.data.images import UnreadableImageError
from roadwork.data.pixels import read_pixels, to_network_input
from roadwork.errors import DataError
from roadwork.evaluation.evaluate import tabulate
from roadwork.evaluation.streetvision.challenge import make_challenges
from roadwork.progress import track

LEVEL_COLUMN = "challenge_level"
# Photos whose challenges are in memory at once.
_BATCH_PHOTOS = 16


def predict_challenges(
    datamodule: NATIXDataModule, model: nn.Module, split: str, levels: tuple[int, ...], seed: int
) -> pd.DataFrame:
    """The predictions table of a split's readable photos, each at every level, in the column `challenge_level`.

    Args:
        datamodule: of the run, set up.
        model: of the run, in evaluation mode.
        split: whose photos.
        levels: 0 to 3.
        seed: of the challenges.

    Raises:
        DataError: more photos cannot be read than `data.max_unreadable` allows, or none can.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    rows, logits = [], []
    for row, pixels in _read_challenges(datamodule, split, levels, seed):
        with torch.inference_mode():
            images = to_network_input(pixels.to(device), datamodule.statistics)
            logits.append(model(pixel_values=images).logits.double().cpu().numpy())
        rows.append(row)
    if not rows:
        raise DataError(f"No photo of {split} could be read. Mend them, or give the split other rows.")
    chosen, by_row = np.array(rows), np.stack(logits)
    frames = [
        tabulate(datamodule, chosen, by_row[:, place]).assign(**{LEVEL_COLUMN: level})
        for place, level in enumerate(levels)
    ]
    return pd.concat(frames, ignore_index=True)


def _read_challenges(
    datamodule: NATIXDataModule, split: str, levels: tuple[int, ...], seed: int
) -> Iterator[tuple[int, Tensor]]:
    """Each readable row of a split, and its challenges (levels, 3, S, S) uint8 as the run reads pictures."""
    rows: list[int] = datamodule.datasets[split].rows.tolist()
    read = partial(_read_row, datamodule, levels=levels, seed=seed)
    batches = [rows[start : start + _BATCH_PHOTOS] for start in range(0, len(rows), _BATCH_PHOTOS)]
    with ThreadPoolExecutor(cpu_count()) as pool:
        # A batch at a time: of all at once, the pictures would pile up before the network.
        found = (pair for batch in batches for pair in zip(batch, pool.map(read, batch), strict=True))
        for row, pixels in track(found, len(rows), f"Challenging {split}"):
            if isinstance(pixels, UnreadableImage):
                datamodule.ledger.add([pixels])
            else:
                yield row, pixels


def _read_row(datamodule: NATIXDataModule, row: int, *, levels: tuple[int, ...], seed: int) -> Tensor | UnreadableImage:
    try:
        challenges = make_challenges(datamodule.source.read(row), levels, str(datamodule.table.ids[row]), seed)
    except UnreadableImageError as error:
        return UnreadableImage(row, str(error))
    return torch.stack([read_pixels(challenge, datamodule.settings.data.img_size) for challenge in challenges])
