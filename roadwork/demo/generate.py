"""Generates the demo dataset with a pool of processes, in a temporary folder that is then renamed."""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from roadwork import __version__
from roadwork.core.errors import DataError
from roadwork.demo.cities import CITIES, ELSEWHERE
from roadwork.demo.places import Sequence, plan_sequences
from roadwork.demo.scene import plan_scene
from roadwork.demo.write import Picture, encode_jpeg, write_deployment, write_local, write_parquet

FORMATS = ("local", "parquet")
SMALLEST, LARGEST = 64, 4096
README = """\
Synthetic street scenes, drawn by roadwork {version}. Nothing here is a photograph: places, traffic and roadwork are
invented, only the cities' coordinates are real. Made with:

    roadwork demo-data DIR --images {images} --size {width}x{height} --seed {seed} --geo-shift {shift} --format {fmt}

The same command draws the same pictures. Labels: {positives} of {images} show roadwork. Pictures come in sequences of
up to four from one place. One sequence in eight was taken within 800 m of another, all others lie over 1 km apart:
keep what is closer than 1 km in one split. {without_gps} pictures have no position, {text_gps} have it as text only.
A street looks as its own city does with probability {shift} (--geo-shift), else as a city drawn at random.
{last}
"""
DEPLOYMENT = "deployment.geojson: where the model is meant to work, in cities that few of the pictures come from."
OTHER_CITY = "The city is not in the default dataset, and another camera sees it: test a trained detector on it."


@dataclass(frozen=True)
class DemoSummary:
    """Summary of a generated dataset.

    Attributes:
        folder: folder of the dataset.
        images: number of images.
        positives: images with label Roadwork.
        sequences: number of sequences.
        cities: images by city.
        deployment_points: points in ``deployment.geojson``.
        rows_without_gps: images without a position.
        rows_with_text_gps: images with a position as text only.
    """

    folder: Path
    images: int
    positives: int
    sequences: int
    cities: dict[str, int]
    deployment_points: int
    rows_without_gps: int
    rows_with_text_gps: int


def generate_demo_data(
    out: Path,
    *,
    images: int = 4800,
    size: tuple[int, int] = (640, 480),
    seed: int = 0,
    geo_shift: float = 1.0,
    fmt: str = "local",
    elsewhere: bool = False,
    processes: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> DemoSummary:
    """Draws a dataset of street scenes, half of them with roadwork, into a new folder.

    The bytes depend only on the arguments up to ``elsewhere``. An interrupted run leaves nothing.

    Args:
        out: folder to create; it may exist if it is empty.
        images: number of images; four make one sequence.
        size: width and height in pixels.
        seed: seed of all random numbers, 0 or more.
        geo_shift: how much the looks of cities differ: the probability, 0 to 1, that a sequence has its own city's
            look instead of a random city's. Labels, places and times do not depend on it.
        fmt: ``local`` (images/ and labels.csv) or ``parquet`` (as on the Hugging Face hub).
        elsewhere: draw a city that is not in the default dataset, as another camera sees it.
        processes: number of processes, by default one per core. 1 draws in this process.
        on_progress: called with the number of finished images and the total.

    Raises:
        DataError: the folder is not empty, or an argument is out of range.
    """
    _check_numbers(images, size, seed, geo_shift)
    _check_target(out, fmt)
    cities = ELSEWHERE if elsewhere else CITIES
    sequences = plan_sequences(images, seed, geo_shift, cities)
    draw = functools.partial(draw_sequence, size=size, seed=seed)
    with _new_folder(out) as folder, _mapper(processes or _core_count()) as run:
        pictures = _counted((p for drawn in run(draw, sequences) for p in drawn), images, on_progress)
        if fmt == "local":
            write_local(folder, pictures)
        else:
            write_parquet(folder, pictures, images)
        summary = _summarise(out, sequences, write_deployment(folder, seed, cities))
        text = README.format(
            version=__version__, images=images, width=size[0], height=size[1], seed=seed,
            fmt=f"{fmt} --elsewhere" if elsewhere else fmt, last=OTHER_CITY if elsewhere else DEPLOYMENT,
            shift=float(geo_shift), positives=summary.positives,
            without_gps=summary.rows_without_gps, text_gps=summary.rows_with_text_gps,
        )  # fmt: skip
        (folder / "README.txt").write_text(text, encoding="utf-8")
    return summary


def draw_sequence(sequence: Sequence, size: tuple[int, int], seed: int) -> list[Picture]:
    """All images of a sequence, drawn and encoded."""
    drawn = []
    for frame, image in enumerate(plan_scene(sequence, seed).pictures(size)):
        position = None if sequence.gps_form == "none" else sequence.position(frame)
        jpeg = encode_jpeg(image, position, f"{sequence.time(frame):%Y:%m:%d %H:%M:%S}")
        drawn.append(Picture(sequence, frame, jpeg))
    return drawn


def _check_numbers(images: int, size: tuple[int, int], seed: int, geo_shift: float) -> None:
    if images < 1:
        raise DataError(f"images is {images}; it must be 1 or more.")
    if seed < 0:
        raise DataError(f"seed is {seed}; it must be 0 or more.")
    if not 0 <= geo_shift <= 1:
        raise DataError(f"geo_shift is {geo_shift}; allowed: 0 (all regions look alike) to 1 (each has its own look).")
    if not all(SMALLEST <= side <= LARGEST for side in size):
        raise DataError(f"size is {size[0]}x{size[1]}; each side must be {SMALLEST} to {LARGEST} pixels, e.g. 640x480.")


def _check_target(out: Path, fmt: str) -> None:
    if fmt not in FORMATS:
        raise DataError(f"format is {fmt!r}; allowed: {', '.join(FORMATS)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not an empty folder. Name a new folder, or remove this one first.")


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out``, renamed to it after the block, or deleted if the block fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o755)
        if out.exists():
            out.rmdir()
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _mapper(processes: int) -> Iterator[Callable[..., Iterator[list[Picture]]]]:
    """The built-in map, or an ordered map over a pool of processes."""
    if processes == 1:
        yield map
        return
    # Forked workers start fast, and need no `if __name__ == "__main__"` in a user's script.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context)
    try:
        yield functools.partial(pool.map, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _core_count() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _counted(
    pictures: Iterator[Picture], total: int, on_progress: Callable[[int, int], None] | None
) -> Iterator[Picture]:
    for done, picture in enumerate(pictures, start=1):
        yield picture
        if on_progress is not None:
            on_progress(done, total)


def _summarise(out: Path, sequences: list[Sequence], points: int) -> DemoSummary:
    cities: dict[str, int] = {}
    for sequence in sequences:
        cities[sequence.city.name] = cities.get(sequence.city.name, 0) + sequence.frames
    return DemoSummary(
        folder=out,
        images=sum(sequence.frames for sequence in sequences),
        positives=sum(sequence.frames for sequence in sequences if sequence.label),
        sequences=len(sequences),
        cities=cities,
        deployment_points=points,
        rows_without_gps=sum(sequence.frames for sequence in sequences if sequence.gps_form == "none"),
        rows_with_text_gps=sum(sequence.frames for sequence in sequences if sequence.gps_form == "text"),
    )
