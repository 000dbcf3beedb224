"""Bulk prediction speed on 12-megapixel files, compared with transformers' pipeline("image-classification").

    python -m benchmarks.predict [--images 24] [--repeat 5] [--json FILE] [--model resnet|vit-s|all]

Both use the same exported model, batch size and generated files, which are in the page cache. Our time covers all of
`roadwork predict` after the network is loaded: discovery, reading, prediction and writing the CSV file. The pipeline
gets the paths as a list, with and without workers, and from a generator, as in its documentation; it writes no file.
Each of its workers reads whole batches, so use several batches per worker.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from joblib import cpu_count

from benchmarks.paired import Contender, Line, compare, show, take_turns
from benchmarks.photos import make_photos
from benchmarks.predict_cases import OURS, SIZES, Predict, check_predictors, make_model, predictors
from benchmarks.step_work import NETWORKS


def measure(network: str, photos: Path, batch: int, workers: int, repeats: int) -> list[Line]:
    """Returns one row per predictor."""
    named = predictors(make_model(photos.with_name(network), network), photos, batch, workers)
    notes = {name: f"differs by {value:.4f}" for name, value in check_predictors(named).items()}
    contenders = [predicting(name, predict) for name, predict in named.items()]
    task = f"{NETWORKS[network][0]}, {SIZES[network]} px"
    return compare(task, OURS, take_turns(contenders, repeats, warmups=0), notes)


def predicting(name: str, predict: Predict) -> Contender:
    """Returns a contender that predicts all photos once."""
    return Contender(name, lambda: len(predict()))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24, help="number of photos (default: 24)")
    parser.add_argument("--photo", type=int, nargs=2, default=(4032, 3024), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--model", choices=[*NETWORKS, "all"], default="all", help="network (default: all)")
    parser.add_argument("--batch", type=int, default=6, help="batch size (default: 6: several per worker)")
    parser.add_argument("--workers", type=int, default=cpu_count(), help="prefetching readers (default: the CPUs)")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    options = parser.parse_args(arguments)
    if min(options.images, options.batch, options.workers, options.repeat, *options.photo) < 1:
        parser.error("--images, --photo, --batch, --workers and --repeat must be at least 1")
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        files = make_photos(photos, options.images, size=tuple(options.photo))
        megabytes = sum(path.stat().st_size for path in files) / len(files) / 1e6
        for network in NETWORKS if options.model == "all" else [options.model]:
            lines += measure(network, photos, options.batch, options.workers, options.repeat)
    title = f"{options.images} photos of {'x'.join(map(str, options.photo))} ({megabytes:.1f} MB)"
    show(
        lines, f"{title}, batches of {options.batch}, {options.workers} workers", options.json,
        images=options.images, batch=options.batch, workers=options.workers, photo_megabytes=megabytes,
    )  # fmt: skip


if __name__ == "__main__":
    main()
