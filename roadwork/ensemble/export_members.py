"""An ensemble listed as several: an ordinary exported folder of each run, for consumers that know no ensembles."""

from __future__ import annotations

from pathlib import Path

from roadwork.ensemble.record import is_ensemble, read_members
from roadwork.errors import ConfigError
from roadwork.export.export import ExportSummary, export_run


def export_members(ensemble: Path, out: Path, *, format: str) -> list[ExportSummary]:  # noqa: A002 -- as export_run
    """Exports each run of an ensemble to `out`/member-1, `out`/member-2, ..., with the run's own calibration.

    Raises:
        ConfigError: the folder is a run's and no ensemble's; otherwise as `export_run`.
        DataError: as `export_run`.
    """
    if not is_ensemble(ensemble):
        raise ConfigError(f"--members is for an ensemble, and {ensemble} is one run. Leave it out.")
    return [
        export_run(member.folder, out / f"member-{number}", format=format)
        for number, member in enumerate(read_members(ensemble), start=1)
    ]
