"""The row of the wiring table on the resized copy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from roadwork.data.images import decode_image
from roadwork.preflight.observations import Observations, WireRow

COMPARED = 8
# Mean difference of 255 between a photo and its copy; measured at 0.5 to 1.5. Another picture differs by 20 or more.
COPY_TOLERANCE = 6.0


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
