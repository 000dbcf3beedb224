"""Colour arithmetic of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from roadwork.data.augmentation.draws import to_device

# ITU-R BT.601, as Pillow converts to "L" and as NTSC defines Y, I and Q.
LUMA_WEIGHTS = (0.299, 0.587, 0.114)
RGB_TO_YIQ = (LUMA_WEIGHTS, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def luma(images: Tensor) -> Tensor:
    """Brightness (B, 1, H, W) as people see it, of images (B, 3, H, W)."""
    red, green, blue = LUMA_WEIGHTS
    return red * images[:, 0:1] + green * images[:, 1:2] + blue * images[:, 2:3]


def color_twist(
    images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue_shifts_deg: Tensor
) -> Tensor:
    """Brightness, contrast, saturation and hue changed in one multiplication a pixel.

    All four are linear: hue turns and saturation stretches the I-Q plane, contrast scales about mid-grey. This is
    ``ColorTwist`` of NVIDIA DALI; a way through HSV takes about ten times as long.

    Args:
        images: (B, 3, H, W) in [0, 1].
        brightness: (B,) factor; 1 changes nothing, here as in the next two.
        contrast: (B,) factor.
        saturation: (B,) factor; 0 is grey.
        hue_shifts_deg: (B,) angles.

    Returns:
        (B, 3, H, W), clipped to [0, 1].
    """
    to_yiq = torch.tensor(RGB_TO_YIQ)  # on the CPU, as the draws are: small, and moved at once
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
