"""Homographies for a batch, applied by a single resampling.

A (3, 3) matrix maps an output point to the input point shown there, as ``torch.nn.functional.affine_grid`` does, in
coordinates from -1 to 1 across the image. Images are square, so rotations are rigid. Matrices are multiplied first and
the images sampled once, since each resampling blurs.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from roadwork.data.augmentation.batch_augmentation import to_device


def _identity(count: int) -> Tensor:
    return torch.eye(3).repeat(count, 1, 1)


def shear_x(tangents: Tensor) -> Tensor:
    """Matrices (N, 3, 3) that shift each row by ``tangents`` (N,) times its height above the centre."""
    matrices = _identity(len(tangents))
    matrices[:, 0, 1] = tangents
    return matrices


def shear_y(tangents: Tensor) -> Tensor:
    """Matrices (N, 3, 3) that shift each column by ``tangents`` (N,) times its distance from the centre."""
    return shear_x(tangents).transpose(1, 2)


def translate_x(shares: Tensor) -> Tensor:
    """Matrices (N, 3, 3) that move the content left by ``shares`` (N,) of the width."""
    matrices = _identity(len(shares))
    matrices[:, 0, 2] = 2 * shares
    return matrices


def translate_y(shares: Tensor) -> Tensor:
    """Matrices (N, 3, 3) that move the content up by ``shares`` (N,) of the height."""
    matrices = _identity(len(shares))
    matrices[:, 1, 2] = 2 * shares
    return matrices


def rotate(angles_deg: Tensor) -> Tensor:
    """Matrices (N, 3, 3) that rotate the content counter-clockwise by ``angles_deg`` (N,) about the centre."""
    radians = torch.deg2rad(angles_deg)
    cosines, sines = radians.cos(), radians.sin()
    matrices = _identity(len(angles_deg))
    matrices[:, 0, 0], matrices[:, 0, 1] = cosines, -sines
    matrices[:, 1, 0], matrices[:, 1, 1] = sines, cosines
    return matrices


def zoom(factors: Tensor) -> Tensor:
    """Matrices (N, 3, 3) that enlarge the content by ``factors`` (N,) about the centre."""
    matrices = _identity(len(factors))
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1 / factors
    return matrices


def mirror(is_mirrored: Tensor) -> Tensor:
    """Matrices (N, 3, 3) that swap left and right where ``is_mirrored`` (N,) is True."""
    matrices = _identity(len(is_mirrored))
    matrices[:, 0, 0] = 1 - 2 * is_mirrored.float()
    return matrices


def perspective(tilts_x: Tensor, tilts_y: Tensor) -> Tensor:
    """Matrices (N, 3, 3) of a camera rotated about its vertical and horizontal axis.

    Args:
        tilts_x: (N,) relative change of scale from the centre to the right edge.
        tilts_y: (N,) the same to the lower edge. ``|tilts_x| + |tilts_y|`` must be below 1, where the horizon is.
    """
    matrices = _identity(len(tilts_x))
    matrices[:, 2, 0], matrices[:, 2, 1] = tilts_x, tilts_y
    return matrices


def warp(images: Tensor, matrices: Tensor, padding: Literal["zeros", "border", "reflection"]) -> Tensor:
    """Images (B, C, S, S) resampled bilinearly with ``matrices`` (B, 3, 3)."""
    grid = _grid(to_device(matrices, images.device), images.shape[-1])
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def _grid(matrices: Tensor, size: int) -> Tensor:
    """Input coordinates (x, y) of each output pixel, (B, size, size, 2).

    The x and y terms are added by broadcasting, in a tenth of the time of a product of all pixel coordinates with such
    small matrices.
    """
    centres = (torch.arange(size, device=matrices.device) + 0.5) * (2 / size) - 1
    along_x = matrices[:, :, 0, None] * centres + matrices[:, :, 2, None]
    along_y = matrices[:, :, 1, None] * centres
    distance = along_x[:, 2, None, :] + along_y[:, 2, :, None]
    grid = matrices.new_empty(len(matrices), size, size, 2)
    for axis in (0, 1):
        torch.div(along_x[:, axis, None, :] + along_y[:, axis, :, None], distance, out=grid[..., axis])
    return grid
