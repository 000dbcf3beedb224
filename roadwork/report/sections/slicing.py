"""Where the detector does well, and where it does not."""

from __future__ import annotations

from roadwork.progress import track
from roadwork.report.run_files import RunFiles
from roadwork.report.section import Section, why_no_test_rows
from roadwork.report.slices import MIN_GROUPS, MIN_ROWS, find_slicings, slice_figures, worst_parts


def slicing_section(run: RunFiles) -> Section:
    """MCC by part of val_test, the worst first."""
    title = "MCC by slice of val_test"
    rows = run.test_rows
    if rows is None:
        return Section("slicing", title, missing=why_no_test_rows(run.predictions))
    slicings, left_out = find_slicings(rows, run.settings)
    evaluation = run.settings.evaluation
    sliced = [
        slice_figures(rows, slicing, draws=evaluation.bootstrap_draws, seed=evaluation.seed, threshold=run.threshold)
        for slicing in track(slicings, len(slicings), "Judging slices")
    ]
    worst = next(worst_parts(sliced), None)
    shown = {
        "slicings": sliced,
        "left_out": left_out,
        "worst": worst,
        "overall": (run.result or {}).get("mcc"),
        "n_parts": sum(len(figures.parts) for figures in sliced),
        "min_rows": MIN_ROWS,
        "min_groups": MIN_GROUPS,
    }
    return Section("slicing", title, shown)
