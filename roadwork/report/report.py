"""`report.html` of one run, and of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from roadwork.errors import ConfigError
from roadwork.report.compare import MAX_RUNS, compare_section
from roadwork.report.dataset import open_data
from roadwork.report.page import render_page
from roadwork.report.run_files import RunFiles, read_run
from roadwork.report.section import Section
from roadwork.report.sections.calibration import calibration_section
from roadwork.report.sections.dataset import dataset_section
from roadwork.report.sections.decisions import decisions_section
from roadwork.report.sections.errors import errors_section
from roadwork.report.sections.headline import headline_section
from roadwork.report.sections.learning import learning_section
from roadwork.report.sections.reward import reward_section
from roadwork.report.sections.setup import setup_section
from roadwork.report.sections.slicing import slicing_section
from roadwork.runs import atomic_path

FILE_NAME = "report.html"


def write_report(folders: Sequence[Path], overrides: Sequence[str] = (), path: Path | None = None) -> Path:
    """Writes the report of a run into its folder, or of several, side by side, into the folder one stands in.

    Nothing is opened: `val_test`'s figures and rows are those that `evaluate` and `calibrate` have written.

    Args:
        folders: of the runs; the first is what the others are held against.
        overrides: `key=value` on top of the runs' own configurations, such as `privacy.coarsen_gps=1`.
        path: another file.

    Raises:
        ConfigError: too many runs, one twice, or an override that cannot be used.
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
        errors_section(run, data),
        dataset_section(run, data),
        setup_section(run),
        reward_section(run),
    ]
