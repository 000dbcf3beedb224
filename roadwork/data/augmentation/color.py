"""Colour transforms and simulated JPEG compression of a batch.

This takes about a tenth of the time of kornia's ``RandomJPEG``, which compresses the whole batch even if only a share
is used, and is differentiable, which an augmentation does not need.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from roadwork.data.augmentation.batch_augmentation import to_device

# ITU-R BT.601, as Pillow converts to "L" and as NTSC defines Y, I and Q.
LUMA_WEIGHTS = (0.299, 0.587, 0.114)
RGB_TO_YIQ = (LUMA_WEIGHTS, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))

# Quantisation steps at quality 50: tables K.1 and K.2 of ITU-T T.81, row by row.
# fmt: off
LUMA_STEPS = (
    16, 11, 10, 16, 24, 40, 51, 61,  12, 12, 14, 19, 26, 58, 60, 55,  14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,  18, 22, 37, 56, 68, 109, 103, 77,  24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,  72, 92, 95, 98, 112, 100, 103, 99,
)
CHROMA_STEPS = (
    17, 18, 24, 47, 99, 99, 99, 99,  18, 21, 26, 66, 99, 99, 99, 99,  24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,  *(99,) * 32,
)
# fmt: on

# ITU-T T.871: RGB to Cb and Cr, centred on 0, and Cb and Cr to their contribution to RGB.
RGB_TO_CHROMA = ((-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
CHROMA_TO_RGB = ((0.0, 1.402), (-0.344136, -0.714136), (1.772, 0.0))


def luma(images: Tensor) -> Tensor:
    """Perceived brightness (B, 1, H, W) of images (B, 3, H, W)."""
    red, green, blue = LUMA_WEIGHTS
    return red * images[:, 0:1] + green * images[:, 1:2] + blue * images[:, 2:3]


def color_twist(
    images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue_shifts_deg: Tensor
) -> Tensor:
    """Images with changed brightness, contrast, saturation and hue, in one matrix product per pixel.

    All four are linear: hue rotates and saturation scales the I-Q plane, contrast scales around mid-grey. This is
    ``ColorTwist`` of NVIDIA DALI; a conversion to HSV takes about ten times as long.

    Args:
        images: (B, 3, H, W) in [0, 1].
        brightness: (B,) factor; 1 changes nothing.
        contrast: (B,) factor; 1 changes nothing.
        saturation: (B,) factor; 0 is grey, 1 changes nothing.
        hue_shifts_deg: (B,) angles.

    Returns:
        (B, 3, H, W), clipped to [0, 1].
    """
    to_yiq = torch.tensor(RGB_TO_YIQ)  # on the CPU like the factors; small, and moved in one copy
    radians = torch.deg2rad(hue_shifts_deg)
    cosines, sines = saturation * radians.cos(), saturation * radians.sin()
    turn = torch.zeros(len(images), 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2] = cosines, -sines
    turn[:, 2, 1], turn[:, 2, 2] = sines, cosines
    matrices = (brightness * contrast).view(-1, 1, 1) * (torch.linalg.inv(to_yiq) @ turn @ to_yiq)
    offsets = (0.5 * brightness * (1 - contrast)).view(-1, 1, 1).expand(-1, 3, 1)
    affine = to_device(torch.cat([matrices, offsets], dim=2), images.device)
    twisted = torch.baddbmm(affine[..., 3:], affine[..., :3], images.flatten(2))
    return twisted.clamp_(0, 1).view_as(images)


def compress(images: Tensor, qualities: Tensor) -> Tensor:
    """Images after JPEG compression with 4:2:0 chroma subsampling, as most cameras use.

    Args:
        images: (N, 3, S, S) in [0, 1].
        qualities: (N,) on libjpeg's scale, 1 to 100.

    Returns:
        (N, 3, S, S) in [0, 1].
    """
    size = images.shape[-1]
    if margin := -size % 16:
        images = F.pad(images, (0, margin, 0, margin), mode="replicate")
    luma_steps, chroma_steps = to_device(_quantisation_steps(qualities), images.device)
    to_chroma, to_rgb = _chroma_matrices(images.device)
    brightness = _quantise(luma(images).mul_(255).sub_(128), luma_steps).add_(128).div_(255)
    # All steps are linear, so the conversions run on the subsampled chroma, a quarter of the pixels.
    pairs = images[:, :, ::2] + images[:, :, 1::2]
    halved = (pairs[..., ::2] + pairs[..., 1::2]).mul_(255 / 4)
    chroma = _quantise(torch.einsum("ij,njhw->nihw", to_chroma, halved), chroma_steps).div_(255)
    tint = torch.einsum("ij,njhw->nihw", to_rgb, chroma)
    tint = F.interpolate(tint, scale_factor=2, mode="bilinear", align_corners=False)
    return tint.add_(brightness).clamp_(0, 1)[:, :, :size, :size]


def _quantisation_steps(qualities: Tensor) -> Tensor:
    """Steps (2, N, 8, 8) for luma and chroma, by vertical and horizontal frequency."""
    scale = torch.where(qualities < 50, 50 / qualities, 2 - qualities / 50)
    at_50 = torch.tensor([LUMA_STEPS, CHROMA_STEPS]).view(2, 1, 8, 8)
    return (at_50 * scale.view(-1, 1, 1)).round().clamp(1, 255)


def _quantise(planes: Tensor, steps: Tensor) -> Tensor:
    """Planes (N, C, H, W) after the DCT of their 8 x 8 blocks, rounding to ``steps``, and the inverse DCT."""
    count, channels, height, width = planes.shape
    basis, four_bases = _cosine_bases(planes.device)
    steps = steps.view(count, 1, 1, 8, 1, 8)
    columns = basis @ planes.reshape(-1, 8, width)
    coefficients = (columns.view(-1, 32) @ four_bases.T).view(count, channels, height // 8, 8, width // 8, 8)
    rounded = coefficients.div_(steps).round_().mul_(steps)
    columns = (rounded.view(-1, 32) @ four_bases).view(-1, 8, width)
    return (basis.T @ columns).view_as(planes)


@cache
def _cosine_bases(device: torch.device) -> tuple[Tensor, Tensor]:
    """Orthonormal DCT-II of 8 pixels, (8, 8), and of four such blocks side by side, (32, 32).

    A matrix product with only 8 columns would leave most of a processor idle.
    """
    position = torch.arange(8)
    basis = torch.cos(math.pi / 8 * (position + 0.5) * position.view(-1, 1)) / 2
    basis[0] /= math.sqrt(2)
    return to_device(basis, device), to_device(torch.kron(torch.eye(4), basis), device)


@cache
def _chroma_matrices(device: torch.device) -> tuple[Tensor, Tensor]:
    return to_device(torch.tensor(RGB_TO_CHROMA), device), to_device(torch.tensor(CHROMA_TO_RGB), device)
