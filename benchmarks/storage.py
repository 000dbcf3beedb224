"""Storage formats of the resized copy: random read speed, disk space and pixel error.

    python -m benchmarks.storage [--images 16] [--size 224] [--photo 4032x3024] [--repeat 5] [--json FILE]

The photos are generated, and all files are in the page cache. The baseline is decoding the photos themselves.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from benchmarks.paired import Contender, compare, show, take_turns
from benchmarks.photos import make_photos
from roadwork.core.errors import DataError
from roadwork.data.images import TRAINING_SCALE, FileImages, ImageSource, decode_image, decode_short_side
from roadwork.data.local import read_local
from roadwork.data.prepared.copy import find_copy
from roadwork.data.prepared.plan import plan_copy
from roadwork.data.prepared.shards import wanted_short_side
from roadwork.data.prepared.write import lock_copy, write_copy
from roadwork.settings import DataSettings, PreparedSettings

OURS = "JPEG in Arrow shards (ours)"


@dataclass(frozen=True)
class Store:
    """All images in one storage format.

    Attributes:
        read: returns a row's image as (size, size, 3) uint8.
        n_bytes: total size on disk.
    """

    read: Callable[[int], np.ndarray]
    n_bytes: int


def stores(photos: Sequence[Path], folder: Path, size: int) -> dict[str, Store]:
    """Writes the photos' images below `folder` in each storage format. Returns the stores by name, ours first."""
    (photos[0].parent / "labels.csv").write_text(
        "filename,label\n" + "".join(f"{path.name},{row % 2}\n" for row, path in enumerate(photos))
    )
    data = DataSettings(
        root=str(photos[0].parent), img_size=size, prepared=PreparedSettings(folder=str(folder / "copy"))
    )
    table, source = read_local(photos[0].parent, {}, data.class_names)
    order = [table.filenames.tolist().index(path.name) for path in photos]
    with lock_copy(data) as manifest:
        copied_bytes = write_copy(plan_copy(data, manifest, table, source), processes=1).n_bytes
    copy = find_copy(data, table, source)
    if copy is None:
        raise DataError("The new resized copy was not found.")

    def read_copy(row: int) -> np.ndarray:
        image = copy.image(order[row], size)
        if image is None:
            raise DataError(f"The resized copy has no image for {photos[row]}.")
        return image

    small = [decode_short_side(path.read_bytes(), wanted_short_side(data)) for path in photos]
    photo_bytes = sum(path.stat().st_size for path in photos)
    return {
        OURS: Store(read_copy, copied_bytes),
        "raw pixels in Arrow, memory-mapped": raw_pixels(small, folder / "raw.arrow", size),
        "lossless WebP, one file per image": webp_files(small, folder / "webp", size),
        "photos, Pillow full decode": Store(lambda row: full_decode(photos[row], size), photo_bytes),
        "photos, our reader for training": Store(
            lambda row: decode_image(photos[row].read_bytes(), size, TRAINING_SCALE), photo_bytes
        ),
    }


def full_decode(photo: Path, size: int) -> np.ndarray:
    """Decodes the full photo, then resizes it to (size, size, 3) uint8, as most data pipelines do."""
    with Image.open(photo) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


def raw_pixels(images: Sequence[np.ndarray], path: Path, size: int) -> Store:
    """Stores uncompressed pixels in a memory-mapped Arrow file."""
    pixels = pa.array([image.tobytes() for image in images], pa.large_binary())
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.schema({"pixels": pixels.type})) as writer:
        writer.write_batch(pa.record_batch([pixels], names=["pixels"]))
    column = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(0)

    def read(row: int) -> np.ndarray:
        image = np.frombuffer(column[row].as_buffer(), np.uint8).reshape(images[row].shape)
        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))

    return Store(read, path.stat().st_size)


def webp_files(images: Sequence[np.ndarray], folder: Path, size: int) -> Store:
    """Stores each image as a lossless WebP file."""
    folder.mkdir()
    paths = [folder / f"{row:05d}.webp" for row in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "WEBP", lossless=True)
        path.write_bytes(stream.getvalue())
    return Store(lambda row: decode_image(paths[row].read_bytes(), size), sum(path.stat().st_size for path in paths))


def mean_difference(store: Store, source: ImageSource, size: int, n: int) -> float:
    """Returns the mean pixel difference from the decoded photos, on a scale of 255."""
    differences = [
        np.abs(store.read(row).astype(np.int16) - decode_image(source.read(row), size)).mean() for row in range(n)
    ]
    return float(np.mean(differences))


def epoch(store: Store, n: int) -> Callable[[], int]:
    """Returns a function that reads each image once, in the same random order for all stores."""
    order = np.random.default_rng(0).permutation(n).tolist()

    def run() -> int:
        for row in order:
            store.read(row)
        return n

    return run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16, help="number of generated photos (default: 16)")
    parser.add_argument("--size", type=int, default=224, help="output size in pixels (default: 224)")
    parser.add_argument("--photo", default="4032x3024", metavar="WxH", help="photo size in pixels (default: 4032x3024)")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    options = parser.parse_args(arguments)
    if options.images < 1 or options.repeat < 1:
        parser.error("--images and --repeat must be at least 1")
    width, height = map(int, options.photo.split("x"))
    torch.set_num_threads(1)  # like a DataLoader worker
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = make_photos(folder / "photos", options.images, size=(width, height))
        kept = stores(photos, folder, options.size)
        notes = describe(kept, photos, options.size)
        contenders = [Contender(name, epoch(store, len(photos))) for name, store in kept.items()]
        lines = compare(f"an epoch at {options.size}", OURS, take_turns(contenders, options.repeat), notes)
    title = f"{options.images} photos of {options.photo}, one thread"
    show(lines, title, options.json, images=options.images, size=options.size, photo=options.photo)


def describe(kept: dict[str, Store], photos: Sequence[Path], size: int) -> dict[str, str]:
    """Formats each store's size per image and its mean pixel difference from the decoded photos."""
    source = FileImages(photos)
    return {
        name: f"{store.n_bytes / len(photos) / 1e3:.1f} kB per image, "
        f"mean difference {mean_difference(store, source, size, len(photos)):.2f} of 255"
        for name, store in kept.items()
    }


if __name__ == "__main__":
    main()
