"""Data commands: demo-data, split, prepare, map, frames."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from roadwork.cli.app import DEFAULT_CONFIG, FAILED, ConfigOption, Overrides, app

if TYPE_CHECKING:
    from roadwork.data.prepared.plan import CopyPlan
    from roadwork.data.prepared.write import CopySummary
    from roadwork.data.split_verification import Verification
    from roadwork.preflight.shortcuts import Shortcuts
    from roadwork.settings import Settings


@app.command("demo-data", rich_help_panel="Data")
def demo_data(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to create.")],
    *,
    images: Annotated[int, typer.Option(min=1, help="Number of images.")] = 4800,
    size: Annotated[str, typer.Option(help="Image size, width x height in pixels.")] = "640x480",
    seed: Annotated[int, typer.Option(min=0, help="Random seed; the same options give the same bytes.")] = 0,
    geo_shift: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of streets in the style of their region; 0: all regions look alike."),
    ] = 1.0,
    fmt: Annotated[str, typer.Option("--format", help="Format: local or parquet.")] = "local",
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="Draw another city with another camera, to test a trained detector on.")
    ] = False,
) -> None:
    """Generate a synthetic dataset of street scenes.

    Use it to test the pipeline, not to measure accuracy on real streets.

    Example: roadwork demo-data data/demo --images 400
    """
    from roadwork.data.source import make_demo_data

    match = re.fullmatch(r"(\d+)x(\d+)", size)
    if match is None:
        raise typer.BadParameter(
            f"{size!r} is not a size; allowed: WIDTHxHEIGHT, such as 640x480.", param_hint="--size"
        )
    if fmt not in ("local", "parquet"):
        raise typer.BadParameter(f"{fmt!r}; allowed: local, parquet.", param_hint="--format")
    width, height = int(match[1]), int(match[2])
    make_demo_data(
        folder, images=images, size=(width, height), seed=seed, geo_shift=geo_shift, fmt=fmt, elsewhere=elsewhere
    )


@app.command(rich_help_panel="Data")
def split(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    verify: Annotated[bool, typer.Option("--verify", help="Verify an existing splits file; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Create or verify the train and validation splits.

    Writes splits.json beside the data. With --verify, the exit code is 1 if rows leak.

    Example: roadwork split data.root=photos data.splitting.seed=7
    """
    from roadwork.config import load_config, to_settings

    if as_json and not verify:
        raise typer.BadParameter("it needs --verify.", param_hint="--json")
    settings = to_settings(load_config(config, overrides or []))
    if verify:
        _verify(settings, as_json)
    else:
        _make(settings)


def _make(settings: Settings) -> None:
    from roadwork.data.open import check_may_replace, open_dataset, splits_path
    from roadwork.data.splitting.check import check_splits
    from roadwork.data.splitting.splits import make_splits
    from roadwork.data.splitting.train_only import place_train_only

    path = splits_path(settings)
    check_may_replace(path)
    dataset = open_dataset(settings)
    table, groups = dataset.table, dataset.groups
    splits = make_splits(table, groups, settings.data.splits, settings.data.splitting)
    report = check_splits(place_train_only(splits, table, groups), table, groups)
    splits.write(path)
    print(f"{path}: {report}")
    for note in (*groups.notes, *report.warnings):
        print(f"Note: {note}")


def _verify(settings: Settings, as_json: bool) -> None:
    from roadwork.data.open import open_dataset
    from roadwork.data.split_verification import verify_splits
    from roadwork.preflight.shortcuts import measure_shortcuts

    dataset = open_dataset(settings)
    verification = verify_splits(dataset)
    shortcuts = measure_shortcuts(dataset, dataset.split_names)
    if as_json:
        found = verification.as_dict() | {"shortcuts": shortcuts.as_dict()}
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _show(verification, shortcuts)
    if not verification.leaks_nothing:
        raise typer.Exit(FAILED)


def _show(verification: Verification, shortcuts: Shortcuts) -> None:
    from roadwork.data.splitting.check import RANDOM_SPLIT_NOTE

    report = verification.report
    print(f"{verification.file}: {f'{verification.strategy} splits' if verification.strategy else 'your own splits'}")
    print(f"Data fingerprint: {verification.fingerprint}")
    Console().print(_table(verification))
    print(f"Set aside: {report.set_aside:,} rows")
    if report.closest:
        print("Closest rows of each pair of splits:")
    for pair in report.closest:
        print(f"   {pair}")
    print(verification.comparison)
    for note in (*report.share_warnings, *verification.notes):
        print(f"Note: {note}")
    print(shortcuts)
    if shortcuts.is_warning:
        print(f"⚠️  {shortcuts.advice}")
    for leak in report.leaks:
        print(f"❌ {leak.what}: {leak.count:,}")
        for pair in leak.examples:
            print(f"   {pair}")
    if verification.leaks_by_design:
        print(f"❌ This is {RANDOM_SPLIT_NOTE}")
    elif verification.leaks_nothing:
        print("✅ No leaks.")


def _table(verification: Verification) -> Table:
    report = verification.report
    table = Table(
        "split", *(Column(name, justify="right") for name in ("rows", "share", "ratio", "Roadwork", "groups"))
    )
    for name, rows in report.rows.items():
        table.add_row(
            name,
            f"{rows:,}",
            f"{report.shares[name]:.1%}",
            f"{verification.ratios[name]:.1%}",
            f"{report.positive_share[name]:.1%}",
            f"{report.groups[name]:,}",
        )
    return table


@app.command(rich_help_panel="Data")
def prepare(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    verify: Annotated[
        bool, typer.Option("--verify", help="First decode all images of the copy and rewrite damaged ones.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Worker processes. Default: the number of available CPUs.")
    ] = None,
) -> None:
    """Create or update a resized copy of the dataset for training.

    Only missing and changed images are written, so an interrupted command continues where it stopped.

    Example: roadwork prepare data.root=photos data.img_size=224
    """
    from joblib import cpu_count

    from roadwork.config import load_config, to_settings
    from roadwork.data.dataset import UnreadableLedger
    from roadwork.data.open import open_dataset
    from roadwork.data.prepared.plan import plan_copy
    from roadwork.data.prepared.shards import wanted_folder
    from roadwork.data.prepared.write import lock_copy, remove_damaged, write_copy

    settings = to_settings(load_config(config, overrides or []))
    data, dataset = settings.data, open_dataset(settings)
    n_processes = processes or cpu_count()
    with lock_copy(data) as manifest:
        if verify:
            damaged = remove_damaged(wanted_folder(data), manifest.short_side, n_processes)
            for reason in damaged:
                print(f"❌ {reason}: its images will be rewritten.")
            if not damaged:
                print("✅ All images of the copy can be decoded.")
        plan = plan_copy(data, manifest, dataset.table, dataset.source)
        _print_plan(plan)
        plan.check_space()
        summary = write_copy(plan, n_processes)
    _print_summary(plan, summary)
    UnreadableLedger(dataset.table, data.max_unreadable).add(summary.unreadable)
    print("Next: roadwork train (it uses the copy).")


def _print_plan(plan: CopyPlan) -> None:
    from roadwork.data.prepared.plan import format_bytes

    print(f"{len(plan.table):,} images, short side {plan.manifest.short_side} pixels, into {plan.folder}")
    held, changed = int(plan.index.has.sum()), int(plan.index.is_changed.sum())
    if held or changed:
        print(f"{held:,} are already there; {changed:,} have changed since.")
    if len(plan.rows):
        print(
            f"{len(plan.rows):,} to write: about {format_bytes(plan.needed_bytes)} of disk "
            f"({format_bytes(plan.image_bytes)} per image, from a sample); {format_bytes(plan.free_bytes)} free.",
            flush=True,
        )


def _print_summary(plan: CopyPlan, summary: CopySummary) -> None:
    from roadwork.data.prepared.plan import format_bytes

    if summary.n_written:
        speed = summary.n_written / summary.seconds
        print(f"{summary.n_written:,} images written in {summary.seconds:.1f} s, {speed:.1f} images/s.")
    mark = "✅" if summary.n_held + len(summary.unreadable) == len(plan.table) else "❌"
    print(f"{mark} The copy has {summary.n_held:,} of {len(plan.table):,} images, {format_bytes(summary.n_bytes)}.")


@app.command("map", rich_help_panel="Data")
def draw_map(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN] [KEY=VALUE]...", help="A run folder, and overrides of configuration keys."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    out: Annotated[
        Path | None, typer.Option(help="Output file. Default: map.html in the run folder or output folder.")
    ] = None,
    tiles: Annotated[bool, typer.Option("--tiles", help="Show OpenStreetMap tiles, which the browser loads.")] = False,
) -> None:
    """Draw a map of splits, deployment and errors.

    The map is one HTML file that opens offline.

    Example: roadwork map outputs/demo/latest privacy.coarsen_gps=2
    """
    from roadwork.config import load_config, to_settings
    from roadwork.maps.map import write_data_map, write_run_map
    from roadwork.runs.run import Run

    runs = [argument for argument in arguments or [] if "=" not in argument]
    overrides = [argument for argument in arguments or [] if "=" in argument]
    if len(runs) > 1:
        raise typer.BadParameter(f"{', '.join(runs)}: allowed is one run folder.", param_hint="RUN")
    if runs and config != DEFAULT_CONFIG:
        raise typer.BadParameter("A run has its own configuration; omit --config.", param_hint="--config")
    if runs:
        path = write_run_map(Run.open(Path(runs[0])).folder, overrides, out, tiles=tiles)
    else:
        path = write_data_map(to_settings(load_config(config, overrides)), out, tiles=tiles)
    print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB. Open it in a browser."
        + (" It loads map tiles from the network." if tiles else "")
    )


@app.command(rich_help_panel="Data")
def frames(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="mp4, mov or mkv files; each is one drive.")],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to create.")],
    every: Annotated[str, typer.Option(help="Time or distance between frames, such as 1s or 10m.")] = "1s",
    track: Annotated[Path | None, typer.Option(help="A GPX track with the positions.")] = None,
    start: Annotated[
        str | None, typer.Option(help="When the video begins, in ISO 8601. Default: the file's creation time.")
    ] = None,
    time_zone: Annotated[str, typer.Option(help="Zone of the camera's clock, such as Europe/London.")] = "UTC",
    time_offset: Annotated[float, typer.Option(help="Seconds to add to the camera's clock.")] = 0.0,
    max_gap: Annotated[float, typer.Option(min=0, help="Longest gap in the track to interpolate, in seconds.")] = 10.0,
) -> None:
    """Take frames of videos, with time and position.

    Each frame is a JPEG file with its time and position in EXIF, which `roadwork predict` reads.

    Example: roadwork frames drive.mp4 --track drive.gpx --every 10m --out frames
    """
    from datetime import datetime
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    from roadwork.data.frames import FRAMES_FILE, FrameOptions, write_frames
    from roadwork.data.utils.tracks import Track

    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m)", every)
    if match is None or not float(match[1]):
        raise typer.BadParameter(f"{every!r}; allowed: seconds or metres, such as 1s or 10m.", param_hint="--every")
    if match[2] == "m" and track is None:
        raise typer.BadParameter(f"{every!r} needs the positions of --track.", param_hint="--every")
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise typer.BadParameter(
            f"{time_zone!r}; allowed: a zone of the IANA database, such as Europe/London.", param_hint="--time-zone"
        ) from None
    try:
        begin = None if start is None else datetime.fromisoformat(start)
    except ValueError:
        raise typer.BadParameter(f"{start!r}; allowed: such as 2024-05-01T12:30:00Z.", param_hint="--start") from None
    step = float(match[1])
    options = FrameOptions(
        seconds=step if match[2] == "s" else None,
        metres=step if match[2] == "m" else None,
        track=None if track is None else Track.read(track),
        offset=time_offset,
        zone=zone,
        start=begin,
        max_gap=max_gap,
    )
    table = write_frames(videos, out, options)
    n_drives = table["sequence_id"].nunique()
    print(
        f"Written: {len(table):,} frames of {n_drives:,} drive(s) in {out / 'images'}, listed in {out / FRAMES_FILE}."
    )
    if (n_timeless := int((table["captured_at"] == "").sum())) > 0:
        print(f"Without a time: {n_timeless:,}. Their videos have no creation time; give --start.")
    if track is not None:
        n_found, n_timed = int(table["latitude"].notna().sum()), len(table) - n_timeless
        print(f"With a position of {track.name}: {n_found:,}. Outside the track or in a gap: {n_timed - n_found:,}.")
