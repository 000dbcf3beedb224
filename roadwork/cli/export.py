"""Export commands: export, verify-export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from roadwork.cli.app import FAILED, RunArgument, app

if TYPE_CHECKING:
    from roadwork.export.consumer import ContractCheck
    from roadwork.export.export import ExportSummary
    from roadwork.export.parity import Comparison
    from roadwork.export.verify import Verification

_MARKS = {"ok": "✅", "warning": "⚠️ ", "failed": "❌", "skipped": "➖"}
_SHOWN = 20


@app.command(rich_help_panel="Deploy")
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", help="Output folder; an older export there is replaced.")],
    *,
    form: Annotated[
        str,
        typer.Option("--format", help="Format: hf (safetensors for transformers) or onnx (for onnxruntime)."),
    ] = "hf",
    members: Annotated[
        bool, typer.Option("--members", help="Export each run of an ensemble to its own folder below --out.")
    ] = False,
    training_rows: Annotated[
        bool,
        typer.Option(
            "--training-rows",
            help="Also store hashes of the training photos, for `roadwork evaluate DIR --on DATASET`.",
        ),
    ] = False,
    reference_photos: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Store features of at most this many training photos, to judge how familiar a batch is; 0: none.",
        ),
    ] = 1000,
    training_places: Annotated[
        bool,
        typer.Option(
            "--training-places",
            help="Also store where the training photos are, on a grid of half a degree (about 50 km).",
        ),
    ] = False,
) -> None:
    """Export a run as a model folder.

    Merges the adapter into the weights and folds the calibration into the head.

    Example: roadwork export outputs/demo/latest --format hf --out model
    """
    from roadwork.export.export import ExportSummary, export_members, export_run

    write = export_members if members else export_run
    with Console(stderr=True).status("Exporting"):
        written = write(
            run,
            out,
            format=form,
            training_rows=training_rows,
            reference_photos=reference_photos,
            training_places=training_places,
        )
    exported = [written] if isinstance(written, ExportSummary) else written
    for summary in exported:
        _print_folded(summary)
        _print_checked(summary)
        _print_next(summary)


def _print_folded(summary: ExportSummary) -> None:
    facts = summary.facts
    if facts is None:
        print("Folded   not calibrated: temperature 1, threshold 0.5. Run `roadwork calibrate RUN` first to calibrate.")
        return
    band = "no abstention"
    if facts.abstain_low is not None:
        band = f"abstains from {facts.abstain_low:.4f} to {facts.abstain_high:.4f}"
    print(
        f"Folded   temperature {facts.temperature:.6g}, threshold {facts.threshold:.6g}, "
        f"prior {facts.prior:.4g}; {band}"
    )


def _print_checked(summary: ExportSummary) -> None:
    for title, parity in zip(["Checked", *[""] * len(summary.parities)], summary.parities, strict=False):
        print(f"{title:8} {parity.what}: difference {parity.difference:.1e} (limit {parity.limit:.0e})")


def _print_next(summary: ExportSummary) -> None:
    from roadwork.export.consumer import STREETVISION_MODEL_TYPES
    from roadwork.export.model_card import HOTKEY_PLACEHOLDER
    from roadwork.models.ensemble import EnsembleConfig

    print(f"Written  {summary.folder}")
    for name, size in summary.files.items():
        print(f"         {size / 1e3:>10,.1f} kB  {name}")
    print(f"Fill in  license in README.md; {HOTKEY_PLACEHOLDER} in model_card.json if you submit it to NATIX")
    if summary.format == "onnx":
        print("Note     StreetVision miners need --format hf.")
    elif summary.model_type not in STREETVISION_MODEL_TYPES:
        print(
            f"Note     StreetVision's transformers 4.45.2 cannot load a {summary.model_type} "
            f"(it can: {', '.join(STREETVISION_MODEL_TYPES)})."
        )
        if summary.model_type == EnsembleConfig.model_type:
            print("         It can load the runs of an ensemble one by one: export with --members.")
    consumer = " --consumer streetvision" if summary.format == "hf" else ""
    print(f"Next     roadwork verify-export {summary.folder}{consumer}")
    print(f"         roadwork predict {summary.folder} PHOTOS --out sites.geojson")


@app.command(rich_help_panel="Deploy")
def verify_export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Model folder from `roadwork export`.")],
    photos: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PHOTO_OR_FOLDER]...", help="Photos to compare on. Default: those in the folder."),
    ] = None,
    *,
    run: Annotated[Path | None, typer.Option(help="The exported run, to compare on its validation splits too.")] = None,
    limit: Annotated[int, typer.Option(help="Number of rows of the run to compare; 0 for all.")] = 200,
    consumer: Annotated[str | None, typer.Option(help="Also check the contract of a consumer: streetvision.")] = None,
    consumer_python: Annotated[
        Path | None, typer.Option(help="Python with transformers 4.45.2, to load the model there too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that an exported model decides like its run.

    The exit code is 1 if it does not.

    Example: roadwork verify-export model --consumer streetvision
    """
    from roadwork.export.verify import VerifyOptions
    from roadwork.export.verify import verify_export as verify
    from roadwork.runs.run import Run

    options = VerifyOptions(
        photos=photos or (),
        run=Run.open(run).folder if run else None,
        run_rows=limit,
        consumer=consumer,
        consumer_python=consumer_python,
    )
    found = verify(folder, options)
    if as_json:
        print(json.dumps({"folder": str(folder)} | found.as_dict(), indent=2, ensure_ascii=False))
    else:
        _print(found)
    if not found.passed:
        raise typer.Exit(FAILED)


def _print(found: Verification) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for comparison in found.comparisons:
        _print_comparison(console, comparison)
    for check in found.checks:
        _print_check(console, check)
    n_broken = sum(not comparison.is_right for comparison in found.comparisons)
    n_broken += sum(check.status == "failed" for check in found.checks)
    n_skipped = sum(check.status == "skipped" for check in found.checks)
    skipped = f" Skipped: {n_skipped}." if n_skipped else ""
    print(f"{len(found.comparisons)} comparisons, {len(found.checks)} checks. Failed: {n_broken}.{skipped}")


def _print_comparison(console: Console, comparison: Comparison) -> None:
    mark = _MARKS["ok" if comparison.is_right else "failed"]
    allowed = "" if comparison.limit is None else f" (allowed: {comparison.limit:.0e})"
    if comparison.max_logit_difference is not None:
        allowed += f", logits by up to {comparison.max_logit_difference:.1e}"
    console.print(
        f"{mark} {comparison.what}: {len(comparison.changed)} of {comparison.n} decisions changed; "
        f"probabilities differ by up to {comparison.max_difference:.1e}{allowed}",
        markup=False,
    )
    named = [("changed", change) for change in comparison.changed] + [("tie", change) for change in comparison.ties]
    for kind, change in named[:_SHOWN]:
        console.print(
            f"   {kind}: {change.photo}: {change.expected:.6f} became {change.found:.6f}, "
            f"decided at {comparison.threshold:.6f}",
            markup=False,
        )
    if len(named) > _SHOWN:
        console.print(f"   and {len(named) - _SHOWN} more (--json lists all)", markup=False)
    if comparison.ties:
        console.print(
            f"   A tie is within {comparison.tie:g} of the threshold: either decision is right.", markup=False
        )
    if not comparison.is_right:
        console.print("   → do not deploy this folder; export again with the versions in the run's manifest.json")


def _print_check(console: Console, check: ContractCheck) -> None:
    console.print(f"{_MARKS[check.status]} {check.name}: {check.found}", markup=False)
    if check.status != "ok":
        console.print(f"   allowed: {check.allowed}\n   → {check.fix}", markup=False)
