"""Privacy in reports: coarser positions, blurred thumbnails without EXIF."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter

from roadwork.data.images import decode_short_side
from roadwork.data.utils.privacy import number_cells, position_columns, round_distances, round_positions
from roadwork.metrics.predictions import further_columns

_SHORT_SIDE, _LONG_SIDE = 180, 320
_QUALITY = 72


def coarsen_predictions(frame: pd.DataFrame, decimals: int | None) -> pd.DataFrame:
    """A predictions table whose columns reveal positions to `decimals` decimals only.

    Args:
        frame: as in `predictions.parquet`.
        decimals: decimals of a degree; None returns the table unchanged.
    """
    if decimals is None:
        return frame
    gps = frame[["latitude", "longitude"]].to_numpy(np.float64)
    further = frame[further_columns(frame)]
    rounded = round_positions(gps, decimals)
    return frame.drop(columns=position_columns(further, gps, decimals)).assign(
        latitude=rounded[:, 0],
        longitude=rounded[:, 1],
        distance_km=round_distances(frame["distance_km"].to_numpy(np.float64), decimals),
        group=number_cells(frame["group"].to_numpy()),
    )


def make_thumbnail(data: bytes, blur: float) -> bytes:
    """A small JPEG of an encoded photo, upright and without EXIF.

    Args:
        data: the encoded photo.
        blur: standard deviation of the Gaussian blur, in % of the short side; 0 for no blur.

    Raises:
        UnreadableImageError: as `decode_image`.
    """
    small = Image.fromarray(decode_short_side(data, _SHORT_SIDE))  # a new image has no metadata
    small.thumbnail((_LONG_SIDE, _LONG_SIDE))
    if blur:
        small = small.filter(ImageFilter.GaussianBlur(blur / 100 * min(small.size)))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
