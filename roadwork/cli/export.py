"""`roadwork export`: a run becomes a folder that its consumer loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from roadwork.cli.app import app
from roadwork.cli.options import RunArgument

if TYPE_CHECKING:
    from roadwork.export.export import ExportSummary


@app.command()
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", help="The folder to make; an older export there is replaced.")],
    *,
    form: Annotated[
        str,
        typer.Option("--format", help="hf: model.safetensors, for transformers; onnx: model.onnx, for onnxruntime."),
    ] = "hf",
    members: Annotated[
        bool, typer.Option("--members", help="Of an ensemble: one ordinary folder a run, below --out.")
    ] = False,
) -> None:
    """Merge the adapter, fold temperature and threshold into the head, and write model, cards and replay as a folder.

    Example: roadwork export outputs/demo/latest --format hf --out model
    """
    from roadwork.ensemble.export_members import export_members
    from roadwork.export.export import export_run

    with Console(stderr=True).status("Exporting"):
        exported = export_members(run, out, format=form) if members else [export_run(run, out, format=form)]
    for summary in exported:
        _print_folded(summary)
        _print_checked(summary)
        _print_next(summary)


def _print_folded(summary: ExportSummary) -> None:
    facts = summary.facts
    if facts is None:
        print("Folded   not calibrated: temperature 1, threshold 0.5, no prior. `roadwork calibrate RUN` comes before.")
        return
    band = "every photo is answered"
    if facts.abstain_low is not None:
        band = f"abstains from {facts.abstain_low:.4f} to {facts.abstain_high:.4f}"
    print(
        f"Folded   temperature {facts.temperature:.6g}, threshold {facts.threshold:.6g}, "
        f"for a share of Roadwork of {facts.prior:.4g}; {band}"
    )


def _print_checked(summary: ExportSummary) -> None:
    for title, parity in zip(["Checked", *[""] * len(summary.parities)], summary.parities, strict=False):
        print(f"{title:8} {parity.what}: {parity.difference:.1e} apart (limit {parity.limit:.0e})")


def _print_next(summary: ExportSummary) -> None:
    from roadwork.export.consumer import STREETVISION_MODEL_TYPES
    from roadwork.export.natix_card import HOTKEY_PLACEHOLDER
    from roadwork.models.ensemble import EnsembleConfig

    print(f"Written  {summary.folder}")
    for name, size in summary.files.items():
        print(f"         {size / 1e3:>10,.1f} kB  {name}")
    print(f"Fill in  license in README.md; {HOTKEY_PLACEHOLDER} in model_card.json, where you submit it to NATIX")
    if summary.format == "onnx":
        print("Note     StreetVision's miners load transformers' own form: export with --format hf for them.")
    elif summary.model_type not in STREETVISION_MODEL_TYPES:
        print(
            f"Note     StreetVision's transformers 4.45.2 cannot load a {summary.model_type} "
            f"(it can: {', '.join(STREETVISION_MODEL_TYPES)})."
        )
        if summary.model_type == EnsembleConfig.model_type:
            print("         Of an ensemble it can load the runs one by one: export with --members.")
    consumer = " --consumer streetvision" if summary.format == "hf" else ""
    print(f"Next     roadwork verify-export {summary.folder}{consumer}")
    print(f"         roadwork predict {summary.folder} PHOTOS --out sites.geojson")
