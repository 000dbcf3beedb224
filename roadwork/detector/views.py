"""Several looks at one photo, and one answer from them: test-time views.

`none` is the photo as evaluation read it. `flip` adds its mirror image. `tiles` adds nine parts of it, enlarged, for
roadwork too small or too far away to be seen in the whole.
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

# How many views each gives of a photo.
N_VIEWS = {NONE: 1, FLIP: 2, TILES: 10}
_TILES_A_SIDE = 3

# A tile's share of the photo's width and height. Neighbours overlap by half, so that what one cuts another shows whole.
_TILE_SHARE = 1 / 2


def read_views(data: bytes, size: int, views: str) -> Tensor:
    """(V, 3, size, size) uint8 RGB of an encoded JPEG, PNG or WebP; the whole photo, upright, is the first view.

    For `none` and `flip` the first view is exactly what `read_pixels` gives. For `tiles` the photo is decoded once, as
    large as the tiles need it, so that the first view differs from it by fractions of a grey level.

    Args:
        data: the encoded photo.
        size: of a view, in pixels. Whole or tile, it is squashed to the square.
        views: one of `VIEWS`; V is 1, 2 or 10.

    Raises:
        ConfigError: `views` is none of them.
        UnreadableImageError: as of `decode_image`.
    """
    check_views(views)
    if views == TILES:
        return _read_tiles(data, size)
    whole = read_pixels(data, size)
    return torch.stack([whole, whole.flip(-1)] if views == FLIP else [whole])


def combine(differences: Tensor) -> Tensor:
    """(N,) one logit difference a photo, float64, from those of its V views.

    - A mirror image is a second look at the same scene, with much the same errors: the *mean* of the two. (Adding them,
      as for independent evidence, would double the confidence.)
    - Roadwork in a tile is roadwork in the photo, while its absence says little. If one tile of the nine shows it, and
      each is as likely to, the odds that they give together are the *mean of their odds*, a mixture's likelihood ratio:
      the logarithm of the mean exponential. It is at most log 9 below the largest of them, so that one sure tile
      is heard, but nine chances of a false alarm are paid for. Whole and tiles are again two looks: their mean.

    Each rule gives d where all views say d, and d + c where each is moved by c: a folded threshold keeps its place. No
    rule is fitted, and the temperature was fitted for whole photos. With `flip` it stays about right. With `tiles` it
    rests on the assumption above and on tiles looking like photos to the network: where probabilities matter,
    calibrate the combined ones anew, and use tiles only where `scripts/measure_views.py` shows a gain.

    Args:
        differences: (N, V) of the logits of Roadwork and None, V as of `read_views` and in its order.

    Raises:
        ConfigError: V is none of `N_VIEWS`.
    """
    d = differences.double()
    if d.shape[1] not in N_VIEWS.values():
        raise ConfigError(f"{d.shape[1]} views of a photo came; allowed: {N_VIEWS}.")
    if d.shape[1] < N_VIEWS[TILES]:
        return d.mean(dim=1)
    tiles = torch.logsumexp(d[:, 1:], dim=1) - math.log(d.shape[1] - 1)
    return (d[:, 0] + tiles) / 2


def combine_logits(logits: Tensor, n_views: int) -> Tensor:
    """(N, 2) logits whose difference is the combined one, for (N * V, 2) of N photos' views, photo after photo."""
    return antisymmetric(combine(margin(logits).view(-1, n_views)))


def check_views(views: str) -> None:
    """Refuses what is no way of viewing.

    Raises:
        ConfigError: `views` is none of `VIEWS`.
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
    """The corners, in whole pixels, of the tile that begins at these shares of the width and height."""
    width, height = photo.size
    right, bottom = (max(1, round(side * _TILE_SHARE)) for side in photo.size)
    x, y = min(round(left * width), width - right), min(round(top * height), height - bottom)
    return x, y, x + right, y + bottom
