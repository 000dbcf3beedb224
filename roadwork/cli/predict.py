"""Prediction commands: predict, serve."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from roadwork.cli.app import app

if TYPE_CHECKING:
    from roadwork.detector.format import ExportFacts
    from roadwork.detector.outputs import Summary
    from roadwork.detector.photos import FoundPhotos

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """A request to stop by signal.

    Attributes:
        signal_number: the signal received; 0 before.
    """

    def __init__(self) -> None:
        self.signal_number = 0

    def is_wanted(self) -> bool:
        return self.signal_number != 0


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Records the first SIGINT or SIGTERM; a second one stops at once."""
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def note(number: int, _: FrameType | None) -> None:
        request.signal_number = number
        for each, handler in before.items():
            signal.signal(each, handler)
        print("Stopping after this batch. Press Ctrl-C again to stop now.", file=sys.stderr)

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@app.command(rich_help_panel="Deploy")
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder from `roadwork export`.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Photos, folders, globs or parquet files with images; - reads paths from stdin."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="Output file: .csv, .parquet or .geojson.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 32,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding threads. Default: the number of available CPUs.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device: auto (GPU if available), cpu, cuda, cuda:1, ...")] = "auto",
    views: Annotated[str, typer.Option(help="Test-time augmentation: none, flip or tiles.")] = "none",
    sites: Annotated[
        Path | None, typer.Option(help="Also write clusters of detections (sites) to this .geojson file.")
    ] = None,
    coarsen_gps: Annotated[
        int | None, typer.Option(min=0, max=6, metavar="DECIMALS", help="Decimals to which positions are rounded.")
    ] = None,
    estimate_prior: Annotated[
        bool,
        typer.Option(
            "--estimate-prior",
            help="Estimate the share of Roadwork in these photos, and adjust probabilities and decisions to it.",
        ),
    ] = False,
    recursive: Annotated[bool, typer.Option(help="Also read subfolders.")] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output file and partial results of another model.")
    ] = False,
) -> None:
    """Predict roadwork for photos.

    An interrupted command continues where it stopped when you run it again.

    Example: roadwork predict model photos --out photos.geojson
    """
    from roadwork.detector.detector import Detector
    from roadwork.detector.discovery import find_photos
    from roadwork.detector.outputs import check_outputs, threshold_in_words
    from roadwork.detector.predict import (
        InterruptedPredictionError,
        PredictOptions,
        predict_to_file,
        require_export,
    )
    from roadwork.detector.resume import partial_path
    from roadwork.detector.views import check_views

    check_outputs(out, sites)
    check_views(views)
    require_export(model)
    if sites is not None:
        from roadwork.detector.sites import warn_of_coarse_sites

        warn_of_coarse_sites(coarsen_gps)
    found = find_photos(inputs, sys.stdin.buffer, recursive=recursive)
    _print_found(found)
    detector = Detector.load(model, device)
    options = PredictOptions(batch_size, workers or _default_workers(len(found)), views, coarsen_gps, estimate_prior)
    with stop_on_signal() as stop:
        try:
            summary = predict_to_file(
                model, detector, found, out, options, sites=sites, overwrite=overwrite, should_stop=stop.is_wanted
            )
        except InterruptedPredictionError as stopped:
            print(
                f"Stopped after {stopped.n_done:,} of {stopped.n_photos:,} photos. Predictions so far are in "
                f"{partial_path(out)}: run the same command again to continue.",
                file=sys.stderr,
            )
            raise typer.Exit(128 + stop.signal_number) from None
    _print_summary(summary, out, sites)
    for line in summary.prior_lines:
        print(line)
    print(threshold_in_words(summary.facts or detector.facts))
    for line in summary.familiarity.lines(model, summary.n_photos):
        print(line)
    if summary.n_unreadable == summary.n_photos:
        print("Error: none of the photos can be read.", file=sys.stderr)
        raise typer.Exit(1)


def _default_workers(n_photos: int) -> int:
    if n_photos == 1:
        return 1  # without joblib, which is slow to import
    from joblib import cpu_count

    return int(cpu_count())


def _print_found(found: FoundPhotos) -> None:
    counts = (
        (found.n_duplicates, "named more than once"),
        (found.n_hidden, "hidden"),
        (found.n_other, f"without a photo suffix: {found.left_out}"),
    )
    skipped = ", ".join(f"{n:,} {what}" for n, what in counts if n)
    print(f"{len(found):,} photos{f'; skipped: {skipped}' if skipped else ''}.", flush=True)


def _print_summary(summary: Summary, out: Path, sites: Path | None) -> None:
    for line in summary.lines():
        print(line)
    print(f"Written: {out}" + (f", and {summary.n_sites:,} sites in {sites}" if sites else ""))


@app.command(rich_help_panel="Deploy")
def serve(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder from `roadwork export`.")],
    *,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 allows other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 chooses a free one.", min=0, max=65535)] = 8000,
    max_batch: Annotated[int, typer.Option(help="Photos per forward pass.")] = 16,
    max_wait_ms: Annotated[float, typer.Option(help="Longest wait for a batch to fill, in milliseconds.")] = 5.0,
    queue: Annotated[int, typer.Option(help="Most photos queued or in progress; more get status 429.")] = 64,
    max_mb: Annotated[float, typer.Option(help="Largest request in megabytes.")] = 25.0,
    max_images: Annotated[int, typer.Option(help="Most photos per request.")] = 32,
    max_megapixels: Annotated[float, typer.Option(help="Largest photo in megapixels.")] = 50.0,
    timeout: Annotated[float, typer.Option(help="Seconds to receive a request, and again to predict.")] = 30.0,
    device: Annotated[str, typer.Option(help="Device: auto (GPU if available), cpu, cuda, cuda:1, ...")] = "auto",
) -> None:
    """Serve a model over HTTP, with a web page.

    Run `roadwork export RUN --out MODEL` first.

    Example: roadwork serve model --port 8000
    """
    from roadwork.core.errors import MissingExtraError

    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"`roadwork serve` needs {error.name}. Install it: pip install 'roadwork-vision[serve]'"
        ) from error
    from roadwork.detector.detector import Detector
    from roadwork.serve.app import create_app
    from roadwork.serve.errors import Limits
    from roadwork.serve.server import address_of, open_socket
    from roadwork.serve.server import serve as serve_app

    limits = Limits(max_batch, max_wait_ms, queue, max_mb, max_images, max_megapixels, timeout)
    with open_socket(host, port) as bound:
        detector = Detector.load(model, device)
        address = address_of(bound)

        def announce() -> None:
            print(f"Serving {model} on {detector.device} at {address}")
            print(_describe_decision(detector.facts))
            print(f"Open the address in a browser, or try: curl -F images=@photo.jpg {address}/predict", flush=True)

        serve_app(create_app(model, detector, limits), bound, announce)


def _describe_decision(facts: ExportFacts) -> str:
    prior = "unknown prior (not calibrated)" if facts.prior is None else f"prior {facts.prior:.3g}"
    decision = f"Roadwork at a probability of {facts.threshold:.3g} or more, {prior}"
    if facts.abstain_low is None or facts.abstain_high is None:
        return f"{decision}."
    return f"{decision}; abstains from {facts.abstain_low:.3g} to {facts.abstain_high:.3g}."
