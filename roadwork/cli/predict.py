"""`roadwork predict`: photos to a table or a map, by an exported detector."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roadwork.cli.app import app

if TYPE_CHECKING:
    from roadwork.inference.photos import FoundPhotos
    from roadwork.inference.summary import Summary


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder that `roadwork export` has written.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Photos, folders, globs, parquet files with images; - reads paths from stdin."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="The file to write: .csv, .parquet or .geojson.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures that the network gets at once.")] = 32,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode; by default as many as there are CPUs to have.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda, ...")] = "auto",
    views: Annotated[str, typer.Option(help="Looks at each photo: none, flip or tiles; see docs/predict.md.")] = "none",
    sites: Annotated[
        Path | None, typer.Option(help="Also write detections clustered into roadwork sites: a .geojson file.")
    ] = None,
    coarsen_gps: Annotated[
        int | None, typer.Option(min=0, max=6, metavar="DECIMALS", help="Round positions to so many decimals.")
    ] = None,
    recursive: Annotated[bool, typer.Option(help="Read the folders inside folders, too.")] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file, and unfinished answers of another model.")
    ] = False,
) -> None:
    """Say of each photo whether it shows roadwork; go on where an earlier call was interrupted.

    Example: roadwork predict model photos --out photos.geojson
    """
    from joblib import cpu_count

    from roadwork.cli.stopping import stop_on_signal
    from roadwork.inference.detector import Detector
    from roadwork.inference.finding import find_photos
    from roadwork.inference.judging import PredictOptions
    from roadwork.inference.outputs import check_outputs
    from roadwork.inference.predict import (
        InterruptedPredictionError,
        predict_to_file,
        require_export,
        warn_of_coarse_sites,
    )
    from roadwork.inference.resume import partial_path
    from roadwork.inference.summary import threshold_in_words
    from roadwork.inference.views import check_views

    check_outputs(out, sites)
    check_views(views)
    require_export(model)
    if sites is not None:
        warn_of_coarse_sites(coarsen_gps)
    found = find_photos(inputs, sys.stdin.buffer, recursive=recursive)
    _say_found(found)
    detector = Detector.load(model, device)
    options = PredictOptions(batch_size, workers or cpu_count(), views, coarsen_gps)
    with stop_on_signal() as stop:
        try:
            summary = predict_to_file(
                model, detector, found, out, options, sites=sites, overwrite=overwrite, should_stop=stop.is_wanted
            )
        except InterruptedPredictionError as stopped:
            print(
                f"Stopped after {stopped.n_done:,} of {stopped.n_photos:,} photos. Their answers are kept in "
                f"{partial_path(out)}: run the same command again to go on.",
                file=sys.stderr,
            )
            raise typer.Exit(128 + stop.signal_number) from None
    _say_summary(summary, out, sites)
    print(threshold_in_words(detector.facts))
    if summary.n_unreadable == summary.n_photos:
        print("Error: none of the photos can be read.", file=sys.stderr)
        raise typer.Exit(1)


def _say_found(found: FoundPhotos) -> None:
    counts = (
        (found.n_duplicates, "named more than once"),
        (found.n_hidden, "hidden"),
        (found.n_other, "without a photo's suffix"),
    )
    left_out = ", ".join(f"{n:,} {what}" for n, what in counts if n)
    print(f"{len(found):,} photos{f'; left out: {left_out}' if left_out else ''}.", flush=True)


def _say_summary(summary: Summary, out: Path, sites: Path | None) -> None:
    for line in summary.lines():
        print(line)
    print(f"Written: {out}" + (f", and {summary.n_sites:,} sites in {sites}" if sites else ""))
