"""The operations of each augmentation mode, their probabilities, and kornia's equivalents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from kornia import augmentation, enhance
from kornia.augmentation.auto import TrivialAugment
from kornia.geometry import transform
from torch import Tensor, nn

from roadwork.data.augmentation.batch_augmentation import BatchCheck, change_rows_, resize
from roadwork.data.augmentation.color import compress
from roadwork.data.augmentation.geometry import warp
from roadwork.data.augmentation.heavy_aug_kornia import CONDITIONS, STAGES, HeavyAugmentationKornia, _move_camera
from roadwork.data.augmentation.latest_aug_2025 import LatestAugmentation2025, cutmix, draw_boxes, mixup
from roadwork.data.augmentation.streetvision import (
    StreetVisionAugmentation,
    add_noise,
    blur,
    downsample,
    draw_views,
    scale_chroma,
)
from roadwork.data.augmentation.trivial_augment import OPERATIONS, Geometric, apply_operations_, trivial_augment_

Change = Callable[[Tensor], object]


@dataclass(frozen=True)
class Case:
    """One operation of an augmentation.

    Attributes:
        name: the name in the table.
        share: the fraction of images it is applied to; None for a comparison that is not part of the augmentation.
        ours: our implementation; takes (B, 3, S, S) and changes some or all images.
        rows: maps the batch size to the number of changed images.
        peers: other implementations by name; they change the same number of images in the same or a similar way.
    """

    name: str
    share: float | None
    ours: Change
    rows: Callable[[int], int] = field(default=lambda batch: batch)
    peers: dict[str, Change] = field(default_factory=dict)


def _factors(images: Tensor) -> Tensor:
    return torch.linspace(0.5, 1.5, len(images), device=images.device)


def _pairs(images: Tensor, *, along_x: float = 0.0, along_y: float = 0.0) -> Tensor:
    return torch.tensor([along_x, along_y], device=images.device).expand(len(images), 2)


# None: kornia has no equivalent, or none is needed.
KORNIA_OPERATIONS: dict[str, Change | None] = {
    "Identity": None,
    "ShearX": lambda images: transform.shear(images, _pairs(images, along_x=0.5)),
    "ShearY": lambda images: transform.shear(images, _pairs(images, along_y=0.5)),
    "TranslateX": lambda images: transform.translate(images, _pairs(images, along_x=20.0)),
    "TranslateY": lambda images: transform.translate(images, _pairs(images, along_y=20.0)),
    "Rotate": lambda images: transform.rotate(images, 90 * _factors(images)),
    "Brightness": lambda images: enhance.adjust_brightness_accumulative(images, _factors(images)),
    "Color": lambda images: enhance.adjust_saturation_with_gray_subtraction(images, _factors(images)),
    "Contrast": lambda images: enhance.adjust_contrast_with_mean_subtraction(images, _factors(images)),
    "Sharpness": lambda images: enhance.sharpness(images, _factors(images)),
    "Posterize": lambda images: enhance.posterize(images, (4 * _factors(images)).int()),
    "Solarize": lambda images: enhance.solarize(images, _factors(images) / 2),
    "AutoContrast": enhance.normalize_min_max,
    "Equalize": enhance.equalize,
}
_MOVES = nn.Sequential(
    augmentation.RandomHorizontalFlip(p=0.5),
    augmentation.RandomAffine(8, (0.08, 0.08), (0.85, 1.25), padding_mode="reflection", p=1.0),
    augmentation.RandomPerspective(0.12, p=1.0),
)
# kornia has no fog. Its rain, snow and shadows look different from ours; they are the closest equivalents.
KORNIA_STAGES: dict[str, Callable[[int], Change] | None] = {
    "light": lambda _: augmentation.ColorJiggle(0.35, 0.3, 0.4, 12 / 360, p=1.0),
    "rain": lambda size: augmentation.RandomRain((size, 2 * size), (5, max(6, size // 14)), (-2, 2), p=1.0),
    "snow": lambda _: augmentation.RandomSnow(p=1.0),
    "fog": None,
    "shadow": lambda _: augmentation.RandomPlasmaShadow(p=1.0),
    "blur": lambda size: augmentation.RandomMotionBlur(
        (3, max(3, size // 32)), 180.0, 0.5, border_type="replicate", resample="bilinear", p=1.0
    ),
    "noise": lambda _: augmentation.RandomGaussianNoise(std=0.03, p=1.0),
    "JPEG": lambda _: augmentation.RandomJPEG((25.0, 90.0), p=1.0),
    "erasing": lambda _: augmentation.RandomErasing((0.005, 0.03), (0.4, 2.5), 0.5, p=1.0),
}


def _share_of(share: float) -> Callable[[int], int]:
    return lambda batch: max(1, round(share * batch))


def _some(change: Change, rows: Callable[[int], int]) -> Change:
    return lambda images: change_rows_(images, torch.arange(rows(len(images))), change)


def _kornia(change: Change | None, rows: Callable[[int], int]) -> dict[str, Change]:
    return {"kornia": _some(change, rows)} if change else {}


def _operation(index: int, rows: Callable[[int], int]) -> Change:
    """Returns a function that applies operation ``index`` to some images and Identity to the others."""

    def run(images: Tensor) -> None:
        choices = torch.full((len(images),), list(OPERATIONS).index("Identity"))
        choices[: rows(len(images))] = index
        # Small magnitudes: the same images are changed repeatedly and must not turn black.
        apply_operations_(images, choices, torch.linspace(-0.5, 0.5, len(images)))

    return run


def _one_by_one(images: Tensor) -> None:
    for row in range(len(images)):
        trivial_augment_(images[row : row + 1])


def _checks(size: int) -> list[Case]:
    check = BatchCheck()
    return [
        Case("check", 1.0, lambda images: check(images, _labels(images))),
        Case("resize, clamp", 1.0, lambda images: resize(images, size)),
    ]


def _labels(images: Tensor) -> Tensor:
    return torch.arange(len(images), device=images.device) % 2


def _mixed(mix: Callable[..., object], *, is_cutmix: bool) -> Change:
    def run(images: Tensor) -> None:
        count, lam = len(images), torch.rand(len(images))
        where = draw_boxes(lam, *images.shape[2:]) if is_cutmix else lam
        soft_labels = torch.eye(2, device=images.device)[_labels(images)]
        mix(images, soft_labels, torch.randperm(count).to(images.device), where.to(images.device))

    return run


def latest_2025(size: int) -> list[Case]:
    """Returns the operations of the default mode, then TrivialAugment and the full augmentation."""
    once = 1 / len(OPERATIONS)
    geometric = sum(isinstance(operation, Geometric) for operation in OPERATIONS.values())
    cases = _checks(size)
    flip = augmentation.RandomHorizontalFlip(p=1.0)
    rows = _share_of(0.5)
    cases.append(Case("flip", 0.5, _some(lambda chosen: chosen.flip(-1), rows), rows, _kornia(flip, rows)))
    for index, (name, operation) in enumerate(OPERATIONS.items()):
        # Geometric operations share one sampling call.
        rows = _share_of(once * (geometric if isinstance(operation, Geometric) else 1))
        cases.append(Case(name, once, _operation(index, rows), rows, _kornia(KORNIA_OPERATIONS[name], rows)))
    keys = ["input", "class"]
    kornia_cutmix = augmentation.RandomCutMixV2(data_keys=keys, p=1.0, use_correct_lambda=True)
    kornia_mixup = augmentation.RandomMixUpV2(data_keys=keys, p=1.0)
    whole = LatestAugmentation2025(size)
    return [
        *cases,
        Case(
            "CutMix",
            whole.mix_probability * whole.cutmix_share,
            _mixed(cutmix, is_cutmix=True),
            peers={"kornia": lambda images: kornia_cutmix(images, _labels(images))},
        ),
        Case(
            "MixUp",
            whole.mix_probability * (1 - whole.cutmix_share),
            _mixed(mixup, is_cutmix=False),
            peers={"kornia": lambda images: kornia_mixup(images, _labels(images))},
        ),
        Case(
            "TrivialAugment",
            None,
            trivial_augment_,
            peers={"kornia, one operation per batch": TrivialAugment(), "ours, image by image": _one_by_one},
        ),
        Case("total", None, lambda images: whole(images, _labels(images))),
    ]


def heavy_kornia(size: int) -> list[Case]:
    """Returns the operations of the heavy mode, one per weather condition, then the full augmentation."""
    weather = STAGES["weather"].share / len(CONDITIONS)
    parts = {name: (stage.share, stage.change) for name, stage in STAGES.items() if name != "weather"}
    parts |= {condition.__name__: (weather, condition) for condition in CONDITIONS}
    cases = [*_checks(size), Case("viewpoint", 1.0, _move_camera, peers={"kornia": _MOVES})]
    for name, (share, change) in parts.items():
        peer, rows = KORNIA_STAGES[name], _share_of(share)
        cases.append(Case(name, share, _some(change, rows), rows, _kornia(peer(size) if peer else None, rows)))
    whole = HeavyAugmentationKornia(size)
    return [*cases, Case("total", None, lambda images: whole(images, _labels(images)))]


def streetvision(size: int) -> list[Case]:
    """Returns the operations of the challenge mode. Their time shares hold at 224 pixels, the size it works at."""
    parts: dict[str, tuple[float, Change]] = {
        "view": (
            1.0,
            lambda images: warp(images, draw_views(torch.ones(len(images), dtype=torch.bool), 4 / 3), "zeros"),
        ),
        "chroma, values": (
            (3 / 4 + 8 / 9) / 4,
            lambda images: scale_chroma(images, _factors(images).cpu(), _factors(images).cpu()),
        ),
        "down by 2": ((1 / 2 + 1 / 3) / 4, lambda images: downsample(images, 2)),
        "down by 3": (1 / 12, lambda images: downsample(images, 3)),
        "noise in YCbCr": (1 / 6, lambda images: add_noise(images, torch.full((len(images),), 0.001))),
        "blur of 7": (1 / 12, lambda images: blur(images, 7)),
        "blur of 9": (1 / 12, lambda images: blur(images, 9)),
        "JPEG of 75": (1.0, lambda images: compress(images, torch.full((len(images),), 75.0))),
    }
    cases = _checks(size)
    for name, (share, change) in parts.items():
        rows = _share_of(share)
        cases.append(Case(name, share, _some(change, rows), rows))
    whole = StreetVisionAugmentation(size)
    return [*cases, Case("total", None, lambda images: whole(images, _labels(images)))]


MODES: dict[str, Callable[[int], list[Case]]] = {
    "latest_2025": latest_2025,
    "heavy_kornia": heavy_kornia,
    "streetvision": streetvision,
}
