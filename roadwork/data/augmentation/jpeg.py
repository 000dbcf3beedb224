"""What JPEG compression does to a batch, without making the files.

kornia's ``RandomJPEG`` compresses the whole batch to keep a share of it, and is differentiable, which no augmentation
needs: this takes about a tenth of the time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Quantisation steps at quality 50: tables K.1 and K.2 of ITU-T T.81, by row.
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
# ITU-T T.871: luma, and the scaled differences of blue and of red from it; chroma is centred on 0 here.
RGB_TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def compress(images: Tensor, qualities: Tensor) -> Tensor:
    """Images as they come back from JPEG files with halved chroma (4:2:0), as most cameras write them.

    Args:
        images: (N, 3, S, S) in [0, 1].
        qualities: (N,) of libjpeg's scale, 1 to 100.

    Returns:
        (N, 3, S, S) in [0, 1].
    """
    size = images.shape[-1]
    margin = -size % 16
    to_ycbcr = torch.tensor(RGB_TO_YCBCR, device=images.device)
    planes = torch.einsum("ij,njhw->nihw", to_ycbcr, F.pad(images, (0, margin, 0, margin), mode="replicate") * 255)
    qualities = qualities.to(images.device)
    luma = _quantise(planes[:, :1] - 128, LUMA_STEPS, qualities) + 128
    chroma = _quantise(F.avg_pool2d(planes[:, 1:], 2), CHROMA_STEPS, qualities)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = torch.einsum("ij,njhw->nihw", torch.linalg.inv(to_ycbcr), torch.cat([luma, chroma], dim=1))
    return (rgb[:, :, :size, :size] / 255).clamp(0, 1)


def _quantise(planes: Tensor, steps_at_50: tuple[int, ...], qualities: Tensor) -> Tensor:
    """Planes (N, C, H, W) through the cosine transform of their 8 x 8 blocks, rounded to the steps, and back."""
    scale = torch.where(qualities < 50, 50 / qualities, 2 - qualities / 50)
    steps = torch.tensor(steps_at_50, device=planes.device) * scale.view(-1, 1)
    steps = steps.round().clamp(1, 255).view(-1, 1, 64, 1)
    basis = _cosine_basis(planes.device)
    blocks = F.pixel_unshuffle(planes, 8)
    coefficients = basis @ blocks.view(*planes.shape[:2], 64, -1)
    restored = basis.T @ ((coefficients / steps).round() * steps)
    return F.pixel_shuffle(restored.view_as(blocks), 8)


def _cosine_basis(device: torch.device) -> Tensor:
    """Orthonormal DCT-II of an 8 x 8 block, flattened by row: (64, 64)."""
    position = torch.arange(8, device=device)
    basis = torch.cos(math.pi / 8 * (position + 0.5) * position.view(-1, 1)) / 2
    basis[0] /= math.sqrt(2)
    return torch.kron(basis, basis)
