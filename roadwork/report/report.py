"""Writes report.html for one run, or a comparison of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from roadwork.core.errors import ConfigError
from roadwork.core.files import atomic_path
from roadwork.metrics.classification import count_confusion, mcc
from roadwork.metrics.decision import decide
from roadwork.metrics.intervals import (
    MIN_FAILED_GROUPS,
    Interval,
    bootstrap_mcc,
    count_paired,
    effective_groups,
    percentile_interval,
)
from roadwork.report.page import Section, render_page
from roadwork.report.run_files import RunFiles, read_run
from roadwork.report.sections.dataset import dataset_section, open_data
from roadwork.report.sections.errors import errors_section
from roadwork.report.sections.results import (
    calibration_section,
    decisions_section,
    elsewhere_section,
    reward_section,
    slicing_section,
)
from roadwork.report.sections.training import headline_section, learning_section, mcc_plot, scale_start, setup_section

MAX_RUNS = 8

# Settings that only name files are not compared.
_PLACES = ("experiment", "output_dir", "data.splits_file")
FILE_NAME = "report.html"


@dataclass(frozen=True)
class Difference:
    """MCC of a run minus MCC of the first run, on the rows of val_test that both predicted.

    Attributes:
        n: shared rows.
        only_first: rows that only the first run predicted.
        only_other: rows that only the other run predicted.
        relabelled: shared rows that are excluded, because their labels differ.
        mcc: MCC of the first and of the other run, on the shared rows.
        value: the other minus the first; None unless the shared rows have both labels.
        interval: 95 % interval over groups.
        n_differing: rows with different decisions.
        deciding_groups: effective number of groups of these rows.
        sentence: the conclusion in words.
    """

    n: int
    only_first: int
    only_other: int
    relabelled: int
    mcc: tuple[float, float]
    value: float | None
    interval: Interval
    n_differing: int
    deciding_groups: float
    sentence: str


def compare_section(runs: Sequence[RunFiles]) -> Section:
    """The runs side by side; the first one is the baseline."""
    differences = [None, *(_difference(runs[0], other) for other in runs[1:])]
    shown = {
        "runs": [
            {"run": run, "style": f"series{number}", "difference": difference, "epochs": len(run.epochs)}
            for number, (run, difference) in enumerate(zip(runs, differences, strict=True), start=1)
        ],
        "least": scale_start([run.result for run in runs if run.result]),
        "settings": settings_that_differ(runs),
        "curves": mcc_plot([(run.epochs, f"series{number}") for number, run in enumerate(runs, start=1)], None)
        if all(run.epochs for run in runs)
        else None,
    }
    return Section("compare", "Runs side by side", shown)


def settings_that_differ(runs: Sequence[RunFiles]) -> list[tuple[str, list[str]]]:
    """(key, value in each run) of the settings that differ."""
    flat = [dict(_flatten(OmegaConf.to_container(OmegaConf.structured(run.settings)))) for run in runs]
    keys = [key for key in dict.fromkeys(key for settings in flat for key in settings) if key not in _PLACES]
    rows = [(key, [str(settings.get(key, "-")) for settings in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        return [(prefix, value)]
    return [pair for key, part in value.items() for pair in _flatten(part, f"{prefix}.{key}" if prefix else str(key))]


def _difference(first: RunFiles, other: RunFiles) -> Difference | None:
    """None if either run has no rows of val_test."""
    if first.test_rows is None or other.test_rows is None:
        return None
    columns = ["id", "label", "probability", "group"]
    both = first.test_rows[columns].merge(other.test_rows[columns], on="id", suffixes=("", "_other"))
    same = both[both["label"] == both["label_other"]]
    decisions = np.stack(
        [
            decide(same["probability"].to_numpy(), first.threshold),
            decide(same["probability_other"].to_numpy(), other.threshold),
        ]
    )
    counted = {
        "n": len(same),
        "only_first": len(first.test_rows) - len(both),
        "only_other": len(other.test_rows) - len(both),
        "relabelled": len(both) - len(same),
    }
    evaluation = first.settings.evaluation
    return _test_difference(same, decisions, counted, draws=evaluation.bootstrap_draws, seed=evaluation.seed)


def _test_difference(
    same: pd.DataFrame, decisions: np.ndarray, counted: dict[str, int], *, draws: int, seed: int
) -> Difference:
    labels, groups = same["label"].to_numpy(), same["group"].to_numpy()
    if len(np.unique(labels)) < 2:
        why = "The shared rows have one class only" if len(same) else "The runs share no rows of val_test"
        sentence = f"{why}, so they cannot be compared. Train both with the same splits.json."
        nothing = (float("nan"), float("nan"))
        return Difference(**counted, mcc=nothing, value=None, interval=nothing, n_differing=0, deciding_groups=0.0,
                          sentence=sentence)  # fmt: skip
    scores = [float(mcc(count_confusion(labels, rows.astype(float)))) for rows in decisions]
    counts = count_paired(labels, decisions[None].astype(float), groups, np.zeros(len(labels), dtype=np.int64), 1)
    drawn = bootstrap_mcc(counts, np.ones((1, 1)), draws=draws, seed=seed)[:, 0]
    interval = percentile_interval(drawn[:, 1] - drawn[:, 0])
    differs = decisions[0] != decisions[1]
    _, codes = np.unique(groups, return_inverse=True)
    deciding = effective_groups(np.bincount(codes, differs))
    return Difference(
        **counted,
        mcc=(scores[0], scores[1]),
        value=scores[1] - scores[0],
        interval=interval,
        n_differing=int(differs.sum()),
        deciding_groups=deciding,
        sentence=_explain(interval, deciding),
    )


def _explain(interval: Interval, deciding: float) -> str:
    if deciding < MIN_FAILED_GROUPS:
        return (
            f"Not significantly different: decisions differ in {deciding:.1f} effective groups, and a test needs "
            f"{MIN_FAILED_GROUPS}."
        )
    if interval[0] > 0:
        return "Better than the first run: the interval is above 0."
    if interval[1] < 0:
        return "Worse than the first run: the interval is below 0."
    return "Not significantly different: the interval contains 0."


def write_report(folders: Sequence[Path], overrides: Sequence[str] = (), path: Path | None = None) -> Path:
    """Writes the report of a run to its folder, or a comparison of several runs to the current folder.

    It reads what `evaluate` and `calibrate` have written, so it does not open `val_test` again.

    Args:
        folders: run folders; the first one is the baseline.
        overrides: `key=value` on top of the runs' own configurations, such as `privacy.coarsen_gps=1`.
        path: the file to write instead.

    Raises:
        ConfigError: too many runs, a run twice, or an invalid override.
        DataError: a file of a run is damaged.
        MissingExtraError: Jinja2 is not installed.
    """
    if len(folders) > MAX_RUNS or len(set(folders)) < len(folders):
        raise ConfigError(f"{len(folders)} runs were named; a report takes 1 to {MAX_RUNS}, each once.")
    runs = [read_run(folder, overrides) for folder in folders]
    if len(runs) == 1:
        path = path or folders[0] / FILE_NAME
        page = render_page(runs[0].name, "Run", _sections(runs[0]))
    else:
        path = path or Path(FILE_NAME)
        page = render_page(" / ".join(run.name for run in runs), "Comparison", [compare_section(runs)])
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _sections(run: RunFiles) -> list[Section]:
    data = open_data(run)
    return [
        headline_section(run),
        learning_section(run),
        decisions_section(run),
        calibration_section(run),
        slicing_section(run),
        *([elsewhere_section(run)] if run.elsewhere else []),
        errors_section(run, data),
        dataset_section(run, data),
        setup_section(run),
        reward_section(run),
    ]
