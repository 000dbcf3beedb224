"""What was decided, and how well the probabilities rank."""

from __future__ import annotations

import numpy as np
import pandas as pd
from markupsafe import Markup

from roadwork.calibration.probabilities import to_probability
from roadwork.calibration.rows import logit_differences
from roadwork.evaluation.metrics import count_confusion, score_all
from roadwork.report.curves import ranking_curves
from roadwork.report.plot import Plot
from roadwork.report.run_files import RunFiles
from roadwork.report.section import Section, why_no_test_rows

_SHARES = (0.0, 1.0)


def decisions_section(run: RunFiles) -> Section:
    """Confusion matrix, ROC and precision-recall curves on val_test."""
    title = "Decisions on val_test"
    rows = run.test_rows
    if rows is None:
        return Section("decisions", title, missing=why_no_test_rows(run.predictions))
    labels = rows["label"].to_numpy()
    confusion = count_confusion(labels, rows["probability"].to_numpy(), run.threshold).tolist()
    shown = {
        "confusion": confusion,
        "threshold": run.threshold,
        "roc": None,
        "result": run.result or {},
    }
    if len(set(labels.tolist())) == 2:
        shown |= _draw_curves(rows, run.threshold)
    return Section("decisions", title, shown)


def _draw_curves(rows: pd.DataFrame, threshold: float) -> dict[str, Markup]:
    labels = rows["label"].to_numpy()
    # No temperature changes the order of rows.
    curves = ranking_curves(labels, to_probability(logit_differences(rows), 1.0))
    figures = score_all(labels, rows["probability"].to_numpy(), threshold)
    tn, fp, _, _ = count_confusion(labels, rows["probability"].to_numpy(), threshold).tolist()
    here = f"at {threshold:.4g}"
    roc = Plot("ROC curve", x=_SHARES, y=_SHARES, x_label="false alarms among None", y_label="found among Roadwork")
    roc.line([(0, 0), (1, 1)], "chance")
    roc.line(_points(curves.roc), "series1")
    roc.dots([(fp / (tn + fp), figures["recall"])], "chosen", [here], radius=4.5)
    ranked = Plot("Precision-recall curve", x=_SHARES, y=_SHARES, x_label="recall", y_label="precision")
    share = float(labels.mean())
    ranked.line([(0, share), (1, share)], "chance")
    ranked.line(_points(curves.precision_recall), "series1")
    if not np.isnan(figures["precision"]):
        ranked.dots([(figures["recall"], figures["precision"])], "chosen", [here], radius=4.5)
    return {"roc": roc.svg(), "precision_recall": ranked.svg()}


def _points(values: np.ndarray) -> list[tuple[float, float]]:
    return [(x, y) for x, y in values.tolist()]
