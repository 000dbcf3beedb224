"""Test-time augmentation: predicts several views of a photo and combines them.

`none` is the photo as in evaluation. `flip` adds its mirror image. `tiles` adds nine enlarged parts, for roadwork that
is too small or too far away in the whole photo.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from roadwork.core.errors import ConfigError
from roadwork.data.images import decode_short_side, read_pixels, resize_antialiased
from roadwork.metrics.decision import antisymmetric, margin

NONE, FLIP, TILES = VIEWS = ("none", "flip", "tiles")

# Number of views per photo.
N_VIEWS = {NONE: 1, FLIP: 2, TILES: 10}
_TILES_A_SIDE = 3

# A tile's share of the photo's width and height. Tiles overlap by half, so an object cut by one is whole in another.
_TILE_SHARE = 1 / 2


def read_views(data: bytes, size: int, views: str) -> Tensor:
    """(V, 3, size, size) uint8 RGB of an encoded photo; the first view is the whole photo, upright.

    For `none` and `flip` the first view equals `read_pixels`. For `tiles` the photo is decoded once at the size that
    the tiles need, so the first view differs from `read_pixels` by fractions of a grey level.

    Args:
        data: the encoded photo.
        size: side of a view in pixels. The photo and its tiles are resized to a square.
        views: one of `VIEWS`; V is 1, 2 or 10.

    Raises:
        ConfigError: `views` is not in `VIEWS`.
        UnreadableImageError: as for `decode_image`.
    """
    check_views(views)
    if views == TILES:
        return _read_tiles(data, size)
    whole = read_pixels(data, size)
    return torch.stack([whole, whole.flip(-1)] if views == FLIP else [whole])


def combine(differences: Tensor) -> Tensor:
    """(N,) float64 margin of each photo, from the margins of its V views.

    - `flip` takes the *mean* of both views. A mirror image shows the same scene and has similar errors, so adding the
      margins, as for independent evidence, would double the confidence.
    - `tiles` takes the *mean of the odds* of the nine tiles, then the mean with the whole photo. If exactly one tile
      shows the roadwork, and each is equally likely to, this is the likelihood ratio of the mixture. The log of the
      mean odds is at most log 9 below the largest margin. So one confident tile counts, and the nine chances of a false
      alarm are accounted for.

    If all margins are d, the result is d; adding c to all margins adds c to the result. So a folded threshold stays
    valid. The rules are not fitted, and the temperature was fitted on whole photos. With `flip` the calibration stays
    about right. With `tiles` it depends on the assumption above, and on tiles that look like photos to the network. If
    you need probabilities, calibrate the combined margins, and use tiles only if `scripts/measure_views.py` shows a
    gain.

    Args:
        differences: (N, V) margins, logit of Roadwork minus logit of None, with the views in the order of `read_views`.

    Raises:
        ConfigError: V is not in `N_VIEWS`.
    """
    d = differences.double()
    if d.shape[1] not in N_VIEWS.values():
        raise ConfigError(f"There are {d.shape[1]} views per photo; allowed: {N_VIEWS}.")
    if d.shape[1] < N_VIEWS[TILES]:
        return d.mean(dim=1)
    tiles = torch.logsumexp(d[:, 1:], dim=1) - math.log(d.shape[1] - 1)
    return (d[:, 0] + tiles) / 2


def combine_logits(logits: Tensor, n_views: int) -> Tensor:
    """(N, 2) logits with the combined margins, from the logits (N * V, 2) of the views, photo after photo."""
    return antisymmetric(combine(margin(logits).view(-1, n_views)))


def check_views(views: str) -> None:
    """Checks the name of a test-time augmentation.

    Raises:
        ConfigError: `views` is not in `VIEWS`.
    """
    if views not in VIEWS:
        raise ConfigError(f"views is {views!r}; allowed: {', '.join(VIEWS)}.")


def _read_tiles(data: bytes, size: int) -> Tensor:
    photo = Image.fromarray(decode_short_side(data, math.ceil(size / _TILE_SHARE)))
    starts = [step * (1 - _TILE_SHARE) / (_TILES_A_SIDE - 1) for step in range(_TILES_A_SIDE)]
    parts = [photo, *(photo.crop(_box(photo, left, top)) for top in starts for left in starts)]
    views = np.stack([resize_antialiased(part, (size, size)) for part in parts])
    return torch.from_numpy(views.transpose(0, 3, 1, 2).copy())


def _box(photo: Image.Image, left: float, top: float) -> tuple[int, int, int, int]:
    """The corners, in whole pixels, of the tile with its top left corner at these shares of the width and height."""
    width, height = photo.size
    right, bottom = (max(1, round(side * _TILE_SHARE)) for side in photo.size)
    x, y = min(round(left * width), width - right), min(round(top * height), height - bottom)
    return x, y, x + right, y + bottom
