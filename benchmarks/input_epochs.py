"""Epochs of normalised float batches from one folder of photos: our data module and common loaders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.input_cases import (
    OURS,
    PILLOW,
    decode_with_opencv,
    decode_with_pillow,
    has_opencv,
    image_processor,
    mean_difference,
    opencv,
)
from benchmarks.photos import Size, make_photos
from roadwork.config import load_config, to_settings
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.images import to_unit_range
from roadwork.data.prepared.plan import plan_copy
from roadwork.data.prepared.write import lock_copy, write_copy
from roadwork.data.source import read_dataset
from roadwork.models.processor import IMAGENET_STATISTICS

OURS_FROM_COPY = f"{OURS}, from the prepared copy"
OURS_FROM_PHOTOS = f"{OURS}, from the photos"
PILLOW_LOADER = f"{PILLOW}, DataLoader"
BATCH_SIZE = 4
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "config.yaml"
MEAN = torch.tensor(IMAGENET_STATISTICS.mean).view(3, 1, 1)
STD = torch.tensor(IMAGENET_STATISTICS.std).view(3, 1, 1)
# Yields the batches (B, 3, S, S) of one pass over the photos, in order.
Epoch = Callable[[], Iterator[Tensor]]


def make_dataset(root: Path, n: int, photo_size: Size) -> list[Path]:
    """Writes a dataset with `n` photos in the train split and small, unused images in the other splits."""
    photos = make_photos(root / "photos", n, size=photo_size)
    splits = {"train": [str(path.relative_to(root)) for path in photos]}
    for number, split in enumerate(("val_select", "val_calib", "val_test"), 1):
        others = make_photos(root / split, 2, seed=number, size=(64, 48))
        splits[split] = [str(path.relative_to(root)) for path in others]
    names = [name for listed in splits.values() for name in listed]
    rows = [{"filename": name, "label": number % 2} for number, name in enumerate(names)]
    (root / "labels.json").write_text(json.dumps(rows), encoding="utf-8")
    (root / "splits.json").write_text(json.dumps(splits), encoding="utf-8")
    return photos


def epochs(root: Path, photos: list[Path], size: int, workers: int) -> dict[str, Epoch]:
    """Returns the epochs by name, over the train split of `make_dataset`. Prepares the resized copy first."""
    recipes: dict[str, Dataset[Tensor]] = {PILLOW_LOADER: PillowPhotos(photos, size)}
    if has_opencv():
        recipes["OpenCV, full decode, DataLoader"] = OpenCVPhotos(photos, size)
    prepare_copy(root, size)
    return {
        OURS_FROM_COPY: our_epoch(root, size, workers, use="require"),
        OURS_FROM_PHOTOS: our_epoch(root, size, workers, use="never"),
        **{name: plain_epoch(dataset, workers) for name, dataset in recipes.items()},
        "Hugging Face datasets with_transform": plain_epoch(huggingface_photos(photos, size), workers),
    }


def our_config(root: Path, size: int, *overrides: str) -> Any:
    """Returns a configuration without RAM cache, augmentation and weighted sampling: each epoch reads the files."""
    fixed = (
        f"data.root={root}", f"data.img_size={size}", f"data.prepared.folder={root / 'copy'}", "data.cache=none",
        f"data.dataloader.batch_size={BATCH_SIZE}", "data.augmentation.train.mode=none",
        "data.splitting.near_duplicates=false", "data.gps_sampling.enabled=false",
    )  # fmt: skip
    return load_config(CONFIG, [*fixed, *overrides])


def prepare_copy(root: Path, size: int) -> None:
    """Prepares the resized copy, as `roadwork prepare` does."""
    data = to_settings(our_config(root, size)).data
    with lock_copy(data) as manifest:
        write_copy(plan_copy(data, manifest, *read_dataset(data)), processes=1)


def our_epoch(root: Path, size: int, workers: int, use: str) -> Epoch:
    """Returns the epoch of our data module: loaded, scaled and normalised, without augmentation."""
    config = our_config(root, size, f"data.prepared.use={use}", f"data.dataloader.num_workers={workers}")
    datamodule = NATIXDataModule(config)
    datamodule.setup("fit")
    loader = datamodule.dataloader_for("train")

    def epoch() -> Iterator[Tensor]:
        for batch in loader:
            # The work of the module's batch transfer hooks, except for collecting unreadable images.
            yield datamodule.normalise(to_unit_range(batch["image"]))

    return epoch


def plain_epoch(dataset: Any, workers: int) -> Epoch:
    """Returns the epoch of a torch DataLoader with our settings."""
    loader: DataLoader[Any] = DataLoader(
        dataset, BATCH_SIZE, num_workers=workers, persistent_workers=workers > 0, prefetch_factor=2 if workers else None
    )

    def epoch() -> Iterator[Tensor]:
        for batch in loader:
            yield batch["pixel_values"] if isinstance(batch, dict) else batch

    return epoch


class PillowPhotos(Dataset[Tensor]):
    """Equivalent to torchvision's ImageFolder with Resize((size, size)) (bilinear), ToTensor and Normalize."""

    def __init__(self, photos: list[Path], size: int) -> None:
        self.photos = photos
        self.size = size

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Tensor:
        return normalised(self.read(index))

    def read(self, index: int) -> np.ndarray:
        """Reads one photo as (size, size, 3) uint8 RGB."""
        with self.photos[index].open("rb") as file, Image.open(file) as image:
            return np.array(image.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR))


class OpenCVPhotos(PillowPhotos):
    """`PillowPhotos`, decoded with OpenCV."""

    def read(self, index: int) -> np.ndarray:
        return decode_with_opencv(self.photos[index].read_bytes(), self.size, opencv().IMREAD_COLOR)


def normalised(pixels: np.ndarray) -> Tensor:
    """Converts (size, size, 3) uint8 as torchvision's ToTensor and Normalize do."""
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div(255).sub_(MEAN).div_(STD)


def huggingface_photos(photos: list[Path], size: int) -> Any:
    """Returns a `datasets` table of the photos that applies an image processor on read."""
    import datasets  # noqa: PLC0415  # seconds to import

    processor = image_processor(size, image_mean=IMAGENET_STATISTICS.mean, image_std=IMAGENET_STATISTICS.std)
    table = datasets.Dataset.from_dict({"image": list(map(str, photos))}).cast_column("image", datasets.Image())
    return table.with_transform(
        lambda rows: processor([image.convert("RGB") for image in rows["image"]], return_tensors="pt")
    )


def check_epochs(named: dict[str, Epoch], photos: list[Path], size: int) -> dict[str, float]:
    """Returns each epoch's mean pixel difference from Pillow's full decode (bicubic), on a scale of 255.

    Raises:
        ValueError: an epoch omits images, or returns another shape, another dtype or different images.
    """
    expected = np.stack([decode_with_pillow(path.read_bytes(), size) for path in photos])
    differences = {}
    for name, epoch in named.items():
        images = torch.cat(list(epoch()))
        if images.shape != (len(photos), 3, size, size) or images.dtype != torch.float32:
            raise ValueError(
                f"{name} returns {images.dtype} {tuple(images.shape)}, not float32 {(len(photos), 3, size, size)}."
            )
        pixels = (255 * (images * STD + MEAN)).permute(0, 2, 3, 1)
        differences[name] = mean_difference(name, pixels.numpy(), expected)
    return differences
