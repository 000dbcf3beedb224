"""`roadwork prepare`: a resized copy of the dataset, so that training does not decode the photos in every epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from roadwork.cli.app import app
from roadwork.cli.options import DEFAULT_CONFIG, ConfigOption, Overrides

if TYPE_CHECKING:
    from roadwork.data.prepared.plan import CopyPlan
    from roadwork.data.prepared.write import CopySummary


@app.command()
def prepare(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    verify: Annotated[
        bool, typer.Option("--verify", help="First decode every image that the copy holds; make again what is damaged.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="That resize; by default as many as this machine has CPUs to give.")
    ] = None,
) -> None:
    """Make a resized copy of the dataset once, or bring it up to date; training then reads it by itself.

    Only images that are missing or have changed are made, so it goes on where it was interrupted.
    Example: roadwork prepare data.root=photos data.img_size=224
    """
    from joblib import cpu_count

    from roadwork.config import load_config, to_settings
    from roadwork.data.dataset import UnreadableLedger
    from roadwork.data.prepared.folder import wanted_folder
    from roadwork.data.prepared.plan import plan_copy
    from roadwork.data.prepared.write import remove_damaged, write_copy
    from roadwork.data.prepared.writing import writing
    from roadwork.data.source import read_dataset

    data = to_settings(load_config(config, overrides or [])).data
    table, source = read_dataset(data)
    n_processes = processes or cpu_count()
    with writing(data) as manifest:
        if verify:
            damaged = remove_damaged(wanted_folder(data), manifest.short_side, n_processes)
            for reason in damaged:
                print(f"❌ {reason}: the images of that file are made again.")
            if not damaged:
                print("✅ Every image that the copy holds was decoded, and none is damaged.")
        plan = plan_copy(data, manifest, table, source)
        _say_plan(plan)
        plan.check_space()
        summary = write_copy(plan, n_processes)
    _say_summary(plan, summary)
    UnreadableLedger(table, data.max_unreadable).add(summary.unreadable)
    print("Next: roadwork train reads it by itself.")


def _say_plan(plan: CopyPlan) -> None:
    from roadwork.data.prepared.plan import format_bytes

    print(f"{len(plan.table):,} images, short side {plan.manifest.short_side} pixels, into {plan.folder}")
    held, changed = int(plan.index.has.sum()), int(plan.index.is_changed.sum())
    if held or changed:
        print(f"It holds {held:,} of them already; {changed:,} have changed since.")
    if len(plan.rows):
        print(
            f"{len(plan.rows):,} to do: about {format_bytes(plan.needed_bytes)} of disk "
            f"({format_bytes(plan.image_bytes)} an image, from a sample); {format_bytes(plan.free_bytes)} are free.",
            flush=True,
        )


def _say_summary(plan: CopyPlan, summary: CopySummary) -> None:
    from roadwork.data.prepared.plan import format_bytes

    if summary.n_written:
        speed = summary.n_written / summary.seconds
        print(f"{summary.n_written:,} images written in {summary.seconds:.1f} s, {speed:.1f} images/s.")
    mark = "✅" if summary.n_held + len(summary.unreadable) == len(plan.table) else "❌"
    print(f"{mark} The copy holds {summary.n_held:,} of {len(plan.table):,} images, {format_bytes(summary.n_bytes)}.")
