"""Evaluation and prediction read identical pixels from the same bytes."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from roadwork.config import load_config, to_settings
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.images import EVALUATION_SCALE, TRAINING_SCALE, read_pixels, to_network_input
from roadwork.data.prepared.plan import plan_copy
from roadwork.data.prepared.write import lock_copy, write_copy
from roadwork.data.source import read_dataset
from roadwork.models.processor import IMAGENET_STATISTICS

CHECKOUT = Path(__file__).resolve().parents[2]
SIZE = 32
SPLITS = ("train", "val_select", "val_calib", "val_test")


def scene(seed, size=(640, 480)):
    """An image of large shapes, edges and noise, which differs at every decoding scale."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size, Image.Resampling.NEAREST)
    return Image.fromarray((np.asarray(coarse) // 2 + rng.integers(0, 128, (size[1], size[0], 3))).astype(np.uint8))


def encode(image, fmt="JPEG", **options):
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(scene(orientation), quality=90, exif=exif)


def kinds():
    rgb = scene(0)
    grey, transparent = rgb.convert("L"), rgb.convert("RGBA")
    transparent.putalpha(grey)
    files = {f"turned_{orientation}.jpg": turned(orientation) for orientation in range(1, 9)}
    return files | {
        "progressive.jpg": encode(scene(20), progressive=True),
        "small.jpg": encode(scene(21, (40, 30))),
        "portrait.jpg": encode(scene(22, (300, 800)), subsampling=0),
        "grey.jpg": encode(grey),
        "cmyk.jpg": encode(rgb.convert("CMYK"), quality=95),
        "rgb.png": encode(rgb, "PNG"),
        "sixteen.png": encode(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
        "palette.png": encode(rgb.convert("P"), "PNG", transparency=3),
        "bits.png": encode(rgb.convert("1"), "PNG"),
        "alpha.png": encode(transparent, "PNG"),
        "photo.webp": encode(rgb, "WEBP", quality=90),
        "alpha.webp": encode(transparent, "WEBP", lossless=True),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A dataset with every kind of file in val_test, and two plain ones in each of the other splits."""
    root = tmp_path_factory.mktemp("parity")
    test = kinds()
    others = {f"{name}_{i}.jpg": encode(scene(100 + 10 * i + len(name))) for name in SPLITS[:3] for i in range(2)}
    for name, data in (test | others).items():
        (root / name).write_bytes(data)
    rows = [{"filename": name, "label": number % 2} for number, name in enumerate([*test, *others])]
    splits = {split: [name for name in others if name.startswith(split)] for split in SPLITS[:3]} | {
        "val_test": list(test)
    }
    (root / "labels.json").write_text(json.dumps(rows))
    (root / "splits.json").write_text(json.dumps(splits))
    return root


def config_of(root, *overrides):
    return load_config(
        CHECKOUT / "configs" / "config.yaml",
        [
            f"data.root={root}", f"data.img_size={SIZE}", "data.dataloader.batch_size=6",
            "data.splitting.near_duplicates=false", "data.gps_sampling.enabled=false",
            f"data.prepared.folder={root / 'copy'}", *overrides,
        ],
    )  # fmt: skip


def open_data(root, stage, *overrides):
    datamodule = NATIXDataModule(config_of(root, *overrides))
    datamodule.setup(stage)
    return datamodule


def seen_by_evaluation(datamodule):
    """Network input by file name, through the loader and the transfer hooks."""
    seen = {}
    for arrived in datamodule.dataloader_for("val_test"):
        batch = datamodule.on_after_batch_transfer(datamodule.on_before_batch_transfer(arrived, 0), 0)
        names = datamodule.table.filenames[batch["index"].numpy()]
        seen |= dict(zip(names, batch["image"], strict=True))
    return seen


def seen_by_prediction(root, name):
    pixels = read_pixels((root / name).read_bytes(), SIZE)
    return to_network_input(pixels[None], IMAGENET_STATISTICS)[0]


def differing(root, seen):
    return [name for name, image in seen.items() if not torch.equal(image, seen_by_prediction(root, name))]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stage", ["test", "fit"])
def test_evaluation_and_prediction_see_the_same_bits(files, stage, workers):
    seen = seen_by_evaluation(open_data(files, stage, f"data.dataloader.num_workers={workers}", "data.cache=ram"))
    assert seen.keys() == kinds().keys()
    assert not differing(files, seen)


def test_resized_copy_is_only_for_training(files):
    data = to_settings(config_of(files)).data
    with lock_copy(data) as manifest:
        write_copy(plan_copy(data, manifest, *read_dataset(data)), processes=1)
    datamodule = open_data(files, "fit", "data.prepared.use=require", "data.cache=none")
    assert datamodule.datasets["train"].store.copy.has.all()
    assert not differing(files, seen_by_evaluation(datamodule))


def test_parity_test_detects_another_scale(files):
    datamodule = open_data(files, "test", "data.dataloader.num_workers=0")
    store = datamodule.datasets["val_test"].store
    assert store.scale == EVALUATION_SCALE
    store.scale = TRAINING_SCALE
    large = {name for name in kinds() if name.endswith(".jpg") and name != "small.jpg"}
    assert set(differing(files, seen_by_evaluation(datamodule))) == large
