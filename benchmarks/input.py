"""Speed of loading 12-megapixel JPEGs into network inputs, compared with common image readers and loaders.

    python -m benchmarks.input [--images 24] [--size 224] [--photo 4032 3024] [--workers 2] [--repeat 5] [--json FILE]

"Cold" decodes the encoded photo, from the page cache or, on one core, from RAM. All contenders read the same generated
photos and must return the same images. The table shows the mean difference from Pillow's full decode. A ratio compares
two speeds of the same repetition.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.input_cases import OURS, Decode, check_decoders, decoders, has_opencv, opencv
from benchmarks.input_epochs import OURS_FROM_COPY, Epoch, check_epochs, epochs, make_dataset
from benchmarks.paired import Contender, Line, compare, show, take_turns

# One pass over the resized copy is too short to time.
PASSES_OVER_COPY = 10
NO_OPENCV = "OpenCV is not installed, so it is skipped: pip install -c constraints.txt -e '.[bench]'"


def measure_cold(encoded: Sequence[bytes], size: int, repeats: int, *, is_training: bool) -> list[Line]:
    """Measures decoding from bytes to uint8 pixels, in one process and one thread."""
    torch.set_num_threads(1)
    named = decoders(size, is_training=is_training)
    notes = as_notes(check_decoders(named, encoded, size))
    contenders = [decoding(name, decode, encoded) for name, decode in named.items()]
    task = f"cold decode, one core, {'training' if is_training else 'evaluation'}"
    return compare(task, OURS, take_turns(contenders, repeats), notes)


def measure_epochs(root: Path, photos: list[Path], size: int, workers: int, repeats: int) -> list[Line]:
    """Measures epochs from files to normalised float batches. All loaders use the same number of workers."""
    named = epochs(root, photos, size, workers)
    notes = as_notes(check_epochs(named, photos, size))
    contenders = [
        passing(name, epoch, PASSES_OVER_COPY if name == OURS_FROM_COPY else 1) for name, epoch in named.items()
    ]
    return compare("an epoch through the loader", OURS_FROM_COPY, take_turns(contenders, repeats), notes)


def decoding(name: str, decode: Decode, encoded: Sequence[bytes]) -> Contender:
    """Returns a contender that decodes each photo once."""
    return Contender(name, lambda: len([decode(data).shape for data in encoded]))


def passing(name: str, epoch: Epoch, n_passes: int) -> Contender:
    """Returns a contender that reads all batches `n_passes` times."""
    return Contender(name, lambda: sum(len(batch) for _ in range(n_passes) for batch in epoch()))


def as_notes(differences: dict[str, float]) -> dict[str, str]:
    """Formats the mean pixel difference of each contender from Pillow's full decode."""
    return {name: f"differs by {difference:.2f} of 255" for name, difference in differences.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24, help="number of photos (default: 24)")
    parser.add_argument("--size", type=int, default=224, help="network input size in pixels (default: 224)")
    parser.add_argument("--photo", type=int, nargs=2, default=(4032, 3024), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--workers", type=int, default=2, help="worker processes per loader (default: 2)")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    options = parser.parse_args(arguments)
    if min(options.images, options.repeat, options.size, *options.photo) < 1 or options.workers < 0:
        parser.error("--images, --size, --photo and --repeat must be at least 1, --workers at least 0")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        photos = make_dataset(root, options.images, tuple(options.photo))
        encoded = [path.read_bytes() for path in photos]
        lines = [
            line
            for is_training in (False, True)
            for line in measure_cold(encoded, options.size, options.repeat, is_training=is_training)
        ]
        lines += measure_epochs(root, photos, options.size, options.workers, options.repeat)
    megabytes = sum(map(len, encoded)) / len(encoded) / 1e6
    title = f"{options.images} photos of {'x'.join(map(str, options.photo))} ({megabytes:.1f} MB) to {options.size}"
    show(
        lines, f"{title}, {options.workers} workers" + ("" if has_opencv() else f"\n{NO_OPENCV}"), options.json,
        images=options.images, repeats=options.repeat, workers=options.workers, photo_megabytes=megabytes,
        pillow=version("pillow"), opencv=opencv().__version__ if has_opencv() else None,
    )  # fmt: skip


if __name__ == "__main__":
    main()
