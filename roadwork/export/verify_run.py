"""An exported folder against the predictions that its run was evaluated and calibrated with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from roadwork.calibration.probabilities import to_probability
from roadwork.calibration.rows import logit_differences
from roadwork.config import load_yaml, to_settings
from roadwork.data.images import UnreadableImageError
from roadwork.data.source import read_dataset
from roadwork.errors import DataError
from roadwork.evaluation.evaluate import VALIDATION_SPLITS
from roadwork.evaluation.predictions import read_predictions
from roadwork.export.facts import ExportFacts
from roadwork.export.run_calibration import PREDICTIONS_FILE, read_calibration
from roadwork.export.verify_comparison import Comparison, compare
from roadwork.export.verify_photos import folded_logits
from roadwork.inference.detector import Detector
from roadwork.runs import read_manifest


def compare_with_run(detector: Detector, run: Path, *, limit_rows: int, tie: float, limit: float) -> Comparison:
    """Replays rows of `val_select` and `val_calib`; `val_test` is not read.

    Args:
        detector: the exported folder, loaded.
        run: a run's folder, evaluated.
        limit_rows: how many rows, taken evenly; 0: all.
        tie: as of `Comparison`.
        limit: as of `Comparison`.

    Raises:
        DataError: the run was not evaluated, its data or calibration is not what was exported, or a photo is gone.
    """
    facts = read_calibration(run) or ExportFacts()
    exported = detector.facts
    if (facts.temperature, facts.threshold) != (exported.temperature, exported.threshold):
        raise DataError(
            f"The folder was exported with temperature {exported.temperature:.6g} and threshold "
            f"{exported.threshold:.6g}; {run} is calibrated to {facts.temperature:.6g} and {facts.threshold:.6g}. "
            "Export again, or name the run that it was exported from."
        )
    frame = read_predictions(run / PREDICTIONS_FILE)
    frame = frame[frame["split"].isin(VALIDATION_SPLITS)]
    if frame.empty:
        raise DataError(f"{run / PREDICTIONS_FILE} has no row of {' or '.join(VALIDATION_SPLITS)} to replay.")
    if 0 < limit_rows < len(frame):
        frame = frame.iloc[np.unique(np.linspace(0, len(frame) - 1, limit_rows).astype(int))]
    photos = _read_photos(run, frame["id"].tolist())
    return compare(
        "Detector against the run's predictions",
        frame["id"].tolist(),
        to_probability(logit_differences(frame), facts.temperature),
        detector.probabilities(folded_logits(detector, photos)),
        threshold=facts.threshold,
        tie=tie,
        limit=limit,
    )


def _read_photos(run: Path, ids: list[str]) -> list[bytes]:
    table, source = read_dataset(to_settings(load_yaml(run / "config.yaml")).data)
    if read_manifest(run).get("data_fingerprint") not in (None, table.fingerprint()):
        raise DataError(
            f"{table.notes[0]} It is not the data that {run} was trained on: rows, labels, positions or sequences have "
            "changed since. Restore it, or leave --run out."
        )
    rows = {name: row for row, name in enumerate(table.ids.tolist())}
    try:
        return [source.read(rows[name]) for name in ids]
    except (KeyError, UnreadableImageError) as error:
        raise DataError(f"The data of {run} lacks a photo that it predicted: {error}. Restore it.") from error
