"""The challenge images of StreetVision's profile 2026-01 as an augmentation.

Level 0 is the photo's centre square. Level 1 rotates the photo and crops a random square, which can miss the roadwork.
Levels 2 and 3 also distort the image. All levels are 224 x 224 pixels and JPEG-compressed.

Each function maps images (N, 3, S, S) in [0, 1] to as many images. The validator truncates to 8 bits after each step;
these functions do not, which differs by less than 1/255 per step.
"""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from roadwork.core.errors import ConfigError
from roadwork.data.augmentation import geometry
from roadwork.data.augmentation.batch_augmentation import (
    BatchAugmentation,
    change_rows_,
    per_image,
    resize,
    rows_where,
    to_device,
    uniform,
)
from roadwork.data.augmentation.color import CHROMA_TO_RGB, compress, luma
from roadwork.settings import TrainAugmentationSettings

LEVELS = 4
SIZE = 224

# Rotation to either side; pixels outside the photo are black.
MAX_ANGLE_DEG = 20.0

# Area of the square crop as a share of the photo. A square that does not fit is drawn again; after CROP_TRIES draws the
# centre square is used.
MIN_CROP_SHARE, MAX_CROP_SHARE, CROP_TRIES = 0.2, 1.0, 10

# By strength 0 (off), 1 or 2, in the order of application.
CHROMA_FACTORS = (1.0, 0.4, 0.3)
VALUE_FACTORS = (1.0, 0.85, 0.725)
DOWNSAMPLINGS = (1, 2, 3)

# Variances in studio-range YCbCr scaled to [0, 1]: luma spans 16 to 235 and chroma 16 to 240 of 255.
NOISE_VARIANCES = (0.0, 0.001, 0.002)
LUMA_RANGE, CHROMA_RANGE = 219 / 255, 224 / 255

# Kernel sizes in pixels; the Gaussian's standard deviation is a sixth of them. 1 is no blur.
BLUR_KERNELS = (1, 7, 9)

# By level: number of possible strengths of each distortion, which are uniform and independent.
STRENGTHS = ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (2, 2, 2, 1, 1), (3, 3, 3, 3, 3))

# Pillow's default.
JPEG_QUALITY = 75
DEFAULT_ASPECT = 4 / 3


def draw_strengths(levels: Tensor) -> Tensor:
    """Random strengths (B, 5) int64 for levels (B,): chroma, values, resolution, noise, blur."""
    choices = torch.tensor(STRENGTHS)[levels]
    return (torch.rand(choices.shape) * choices).long()


def distort_(images: Tensor, strengths: Tensor) -> None:
    """Applies strengths (B, 5) to images (B, 3, S, S) in place, in the validator's order."""
    chroma, values, resolution, noise, blurs = strengths.unbind(1)
    factors = torch.tensor(CHROMA_FACTORS)[chroma], torch.tensor(VALUE_FACTORS)[values]
    rows = rows_where((chroma > 0) | (values > 0))
    change_rows_(images, rows, scale_chroma, *(factor[rows] for factor in factors))
    for strength, factor in enumerate(DOWNSAMPLINGS[1:], 1):
        change_rows_(images, rows_where(resolution == strength), partial(downsample, factor=factor))
    rows = rows_where(noise > 0)
    change_rows_(images, rows, add_noise, torch.tensor(NOISE_VARIANCES)[noise[rows]])
    for strength, kernel in enumerate(BLUR_KERNELS[1:], 1):
        change_rows_(images, rows_where(blurs == strength), partial(blur, kernel=kernel))


def scale_chroma(images: Tensor, chroma_factors: Tensor, value_factors: Tensor) -> Tensor:
    """Images with chroma (the difference from luma), then all values, scaled by factors (N,)."""
    of_grey = per_image(value_factors * (1 - chroma_factors), images)
    return (images * per_image(value_factors * chroma_factors, images)).add_(luma(images) * of_grey)


def downsample(images: Tensor, factor: int) -> Tensor:
    """Images shrunk by `factor` and enlarged again, bilinearly and without antialiasing, as OpenCV does."""
    size = images.shape[-1]
    for side in (size // factor, size):
        images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
    return images


def add_noise(images: Tensor, variances: Tensor) -> Tensor:
    """Images with Gaussian noise of variances (N,) in studio-range YCbCr."""
    noise = torch.randn_like(images).mul_(per_image(variances.sqrt(), images))
    return torch.einsum("ij,njhw->nihw", _noise_matrix(images.device), noise).add_(images).clamp_(0, 1)


@cache
def _noise_matrix(device: torch.device) -> Tensor:
    """Matrix (3, 3) from noise in studio-range YCbCr to noise in RGB."""
    from_luma = torch.full((3, 1), 1 / LUMA_RANGE)
    return to_device(torch.cat([from_luma, torch.tensor(CHROMA_TO_RGB) / CHROMA_RANGE], dim=1), device)


def blur(images: Tensor, kernel: int) -> Tensor:
    """Images after a Gaussian blur with a kernel of `kernel` pixels, sigma of a sixth of it, and reflected borders.

    Adding shifted copies is many times faster on a CPU than kornia's convolution.
    """
    size, radius = images.shape[-1], kernel // 2
    weights = [math.exp(-((6 * shift / kernel) ** 2) / 2) for shift in range(-radius, radius + 1)]
    for axis, margins in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded = F.pad(images, margins, mode="reflect")
        images = torch.zeros_like(images)
        for start, weight in enumerate(weights):
            images.add_(padded.narrow(axis, start, size), alpha=weight / sum(weights))
    return images


def draw_views(is_turned: Tensor, photo_aspect: float) -> Tensor:
    """Matrices (B, 3, 3) for `geometry.warp` that extract a random square view from a photo squashed to a square.

    Args:
        is_turned: (B,) bool; False gives the centre square.
        photo_aspect: width of the photo over its height, before squashing.
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
    """Random sides (count,) of square crops, and offsets (count, 2) of their centres to the right and down.

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
    """Matrices (N, 3, 3) that rotate a photo counter-clockwise about its centre, then crop it.

    Args:
        angles_deg: (N,) rotation angles.
        sides: (N,) sides of the square crops, in units of the photo's height.
        offsets: (N, 2) offsets of the crops' centres to the right and down, in the same units.
        photo_aspect: see `draw_views`.
    """
    crops = torch.eye(3).repeat(len(sides), 1, 1)
    crops[:, 0, 0] = crops[:, 1, 1] = sides
    crops[:, :2, 2] = 2 * offsets  # the photo's height spans -1 to 1
    squash = torch.diag(torch.tensor([1 / photo_aspect, 1.0, 1.0]))
    return squash @ geometry.rotate(angles_deg) @ crops


class StreetVisionAugmentation(BatchAugmentation):
    """Turns every image into a challenge image of one of four equally likely levels; see `challenge.facts`.

    Labels are unchanged, (B,) int64, even if a crop misses the roadwork, as in the validator.

    Batches hold whole photos squashed to squares, while challenges are squares cropped from photos. So the photo's
    aspect is needed to restore the proportions (docs/decisions/0010). Rotation and crop are one bilinear resampling.
    The validator rotates with nearest-neighbour sampling, but on the photo's much finer pixels.
    """

    def __init__(self, img_size: int, *, photo_aspect: float = DEFAULT_ASPECT) -> None:
        """Stores the settings.

        Args:
            img_size: side of the output in pixels. Images are rendered at 224, as in the validator, then resized.
            photo_aspect: width of a photo over its height.

        Raises:
            ConfigError: `photo_aspect` is not between 0.2 and 5.
        """
        super().__init__(img_size)
        if not 0.2 <= photo_aspect <= 5:
            raise ConfigError(f"photo_aspect is {photo_aspect}; it must be between 0.2 and 5, width over height.")
        self.photo_aspect = photo_aspect

    @classmethod
    def from_settings(cls, settings: TrainAugmentationSettings, img_size: int) -> Self:
        """The augmentation with the settings of ``data.augmentation.train``."""
        return cls(img_size, photo_aspect=settings.photo_aspect)

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Challenge images (B, 3, S, S) and unchanged labels."""
        count = len(images)
        levels = torch.randint(LEVELS, (count,))
        rendered = render_views(images, draw_views(levels > 0, self.photo_aspect))
        distort_(rendered, draw_strengths(levels))
        rendered = compress(rendered, torch.full((count,), float(JPEG_QUALITY)))
        return resize(rendered, self.img_size), labels


def render_views(images: Tensor, matrices: Tensor) -> Tensor:
    """(B, 3, 224, 224) views of images (B, 3, S, S) by matrices (B, 3, 3), black outside the image.

    If S is above 224, each pixel is the mean of several samples, to avoid aliasing.
    """
    samples = math.ceil(images.shape[-1] / SIZE)
    warped = geometry.warp(resize(images, samples * SIZE), matrices, padding="zeros")
    return F.avg_pool2d(warped, samples) if samples > 1 else warped
