"""Bulk prediction of 12-megapixel files, ours against transformers' pipeline("image-classification"), in the same run.

    python -m benchmarks.predict [--images 24] [--repeat 5] [--json FILE] [--model resnet|vit-s|all]

Both predict the same exported folder on the same files, which are generated and in the page cache, with the same batch
size. Ours is all that `roadwork predict` does once it has loaded the network: finding, reading, deciding, the csv file.
The pipeline gets the paths as a list, with and without worker processes, and from a generator, as its guide shows
them; it has no file to write. Its workers each read whole batches, so there should be several batches a worker.
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
    """A line for each way of predicting."""
    named = predictors(make_model(photos.with_name(network), network), photos, batch, workers)
    notes = {name: f"differs by {value:.4f}" for name, value in check_predictors(named).items()}
    contenders = [predicting(name, predict) for name, predict in named.items()]
    task = f"{NETWORKS[network][0]}, {SIZES[network]} px"
    return compare(task, OURS, take_turns(contenders, repeats, warmups=0), notes)


def predicting(name: str, predict: Predict) -> Contender:
    """Predicts all photos once."""
    return Contender(name, lambda: len(predict()))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24, help="photos (default 24)")
    parser.add_argument("--photo", type=int, nargs=2, default=(4032, 3024), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--model", choices=[*NETWORKS, "all"], default="all", help="the network (default all)")
    parser.add_argument("--batch", type=int, default=6, help="pictures a batch (default 6: several for each worker)")
    parser.add_argument("--workers", type=int, default=cpu_count(), help="that read ahead (default: the CPUs)")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table's figures here too")
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
