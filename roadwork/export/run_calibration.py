"""What a run's calibration leaves to be folded: the facts of the export."""

from __future__ import annotations

import json
from pathlib import Path

from roadwork.calibration.rows import read_rows
from roadwork.errors import DataError
from roadwork.evaluation.predictions import read_predictions
from roadwork.export.facts import ExportFacts

CALIBRATION_FILE, PREDICTIONS_FILE = "calibration.json", "predictions.parquet"


def read_calibration(run: Path) -> ExportFacts | None:
    """Temperature, threshold, prior and abstaining of a run; None where it is not calibrated.

    Raises:
        DataError: calibration.json is damaged, or was made from other predictions than the run's.
    """
    path = run / CALIBRATION_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        made_from = content["sha256_of_rows"]
        band = content["abstain"]
        facts = ExportFacts(
            temperature=float(content["temperature"]),
            threshold=float(content["threshold"]),
            prior=float(content["prior"]),
            abstain_low=band["low"],
            abstain_high=band["high"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be used ({type(error).__name__}: {error}). Write it again with `roadwork calibrate RUN`."
        ) from None
    _, there = read_rows(read_predictions(run / PREDICTIONS_FILE))
    if made_from != there:
        raise DataError(
            f"{path} was made from other predictions (rows {str(made_from)[:12]}…) than {PREDICTIONS_FILE} beside it "
            f"holds ({there[:12]}…), so its temperature and threshold may not fit this network. Calibrate again with "
            "`roadwork calibrate RUN`; or remove calibration.json, to export without calibration."
        )
    return facts
