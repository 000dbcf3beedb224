"""Where a challenge picture is cut out of its photo: turned, and a square of it."""

from __future__ import annotations

import torch
from torch import Tensor

from roadwork.data.augmentation import geometry
from roadwork.data.augmentation.challenge.facts import CROP_TRIES, MAX_ANGLE_DEG, MAX_CROP_SHARE, MIN_CROP_SHARE
from roadwork.data.augmentation.draws import uniform


def draw_views(is_turned: Tensor, photo_aspect: float) -> Tensor:
    """Matrices (B, 3, 3), for `geometry.warp`, that show a square of a photo whose square copy they are given.

    Args:
        is_turned: (B,) bool; False is the centre square.
        photo_aspect: width of the photo over its height, before it was squashed.
    """
    count = len(is_turned)
    angles_deg = uniform(count, -MAX_ANGLE_DEG, MAX_ANGLE_DEG)
    sides, offsets = draw_crops(count, photo_aspect)
    whole_side = min(photo_aspect, 1.0)
    return view_matrices(
        torch.where(is_turned, angles_deg, 0),
        torch.where(is_turned, sides, whole_side),
        torch.where(is_turned.view(-1, 1), offsets, 0),
        photo_aspect,
    )


def draw_crops(count: int, photo_aspect: float) -> tuple[Tensor, Tensor]:
    """Sides (count,) of square crops, and how far right and down of the photo's centre theirs is (count, 2).

    Both are in units of the photo's height. An area is drawn up to ten times, until its square fits into the photo.
    """
    shares = uniform(count * CROP_TRIES, MIN_CROP_SHARE, MAX_CROP_SHARE).view(count, CROP_TRIES)
    whole_side = min(photo_aspect, 1.0)
    fits = shares * photo_aspect <= whole_side**2
    first = fits.int().argmax(1, keepdim=True)
    is_drawn = fits.any(1)
    sides = torch.where(is_drawn, (shares.gather(1, first).squeeze(1) * photo_aspect).sqrt(), whole_side)
    room = torch.stack([photo_aspect - sides, 1 - sides], dim=1).clamp(min=0)
    offsets = room * (torch.rand(count, 2) - 0.5)
    return sides, torch.where(is_drawn.view(-1, 1), offsets, 0)


def view_matrices(angles_deg: Tensor, sides: Tensor, offsets: Tensor, photo_aspect: float) -> Tensor:
    """Matrices (N, 3, 3) of a photo turned counter-clockwise about its centre, then cropped.

    Args:
        angles_deg: (N,).
        sides: (N,) of the square crop, in units of the photo's height, as `offsets` are.
        offsets: (N, 2) of its centre from the photo's, to the right and down.
        photo_aspect: as of `draw_views`.
    """
    crops = torch.eye(3).repeat(len(sides), 1, 1)
    crops[:, 0, 0] = crops[:, 1, 1] = sides
    crops[:, :2, 2] = 2 * offsets  # from -1 to 1 is the photo's height
    squash = torch.diag(torch.tensor([1 / photo_aspect, 1.0, 1.0]))
    return squash @ geometry.rotate(angles_deg) @ crops
