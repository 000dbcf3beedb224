"""MixUp and CutMix: images blended or pasted in pairs, and their soft labels with them."""

from __future__ import annotations

import torch
from torch import Tensor

from roadwork.data.augmentation.draws import per_image


def mixup(images: Tensor, soft_labels: Tensor, partner: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """Each image blended with its partner (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        images: (B, C, H, W).
        soft_labels: (B, K), each row summing to 1.
        partner: (B,) int64, the row that each row is blended with.
        lam: (B,) weight of the image itself; its partner has the rest.

    Returns:
        Images and soft labels: ``lam * own + (1 - lam) * partner``.
    """
    own_share = per_image(lam, images)
    mixed = images.index_select(0, partner).mul_(1 - own_share).addcmul_(images, own_share)
    return mixed, _mix_labels(soft_labels, partner, lam)


def cutmix(images: Tensor, soft_labels: Tensor, partner: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Each image with a box of its partner pasted at the same place (Yun et al. 2019, arXiv:1905.04899).

    Args:
        images: (B, C, H, W).
        soft_labels: (B, K), each row summing to 1.
        partner: (B,) int64, the row that each box is cut from.
        boxes: (B, 4) int64 top, bottom, left, right in pixels; bottom and right are outside the box. Within the image.

    Returns:
        Images, and soft labels weighted by the exact share of pixels that each side shows.
    """
    height, width = images.shape[-2:]
    theirs = images.index_select(0, partner)
    mixed = torch.where(inside(boxes, height, width), theirs, images, out=theirs)
    top, bottom, left, right = boxes.unbind(1)
    lam = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, _mix_labels(soft_labels, partner, lam)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """True (B, 1, height, width) within ``boxes`` (B, 4): top, bottom, left, right in pixels."""
    top, bottom, left, right = (edge.view(-1, 1) for edge in boxes.unbind(1))
    row, column = torch.arange(height, device=boxes.device), torch.arange(width, device=boxes.device)
    in_rows, in_columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return in_rows[:, None, :, None] & in_columns[:, None, None, :]


def draw_boxes(lam: Tensor, height: int, width: int) -> Tensor:
    """Boxes (B, 4) that would cover ``1 - lam`` of the image, centred anywhere in it and clipped to it.

    Args:
        lam: (B,) share to keep, 0 to 1; clipping may keep more.
        height: of the images, in pixels.
        width: of the images, in pixels.
    """
    side = (1 - lam).sqrt()
    edges = []
    for length in (height, width):
        centre, extent = torch.rand(len(lam)) * length, side * length
        edges += [centre - extent / 2, centre + extent / 2]
    limits = torch.tensor([height, height, width, width])
    return torch.minimum(torch.stack(edges, dim=1).round().long().clamp(min=0), limits)


def _mix_labels(soft_labels: Tensor, partner: Tensor, lam: Tensor) -> Tensor:
    return torch.lerp(soft_labels[partner], soft_labels, lam.to(soft_labels).view(-1, 1))
