"""Which labels the out-of-fold predictions contradict with confidence: a list for a person to decide."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from roadwork.data.label_corrections import is_filled_in
from roadwork.data.utils.privacy import coarsen
from roadwork.errors import MissingExtraError
from roadwork.evaluation.results import errors_allowed
from roadwork.experiments.audit_page import MAX_SHOWN, read_thumbnails, write_audit_page
from roadwork.experiments.cv_plan import CrossValidation
from roadwork.runs import atomic_path

logger = logging.getLogger(__name__)

# The best of cleanlab's filters on 85 planted errors among 4,320 demo rows: precision 0.92, recall 0.89. The others:
# `confident_learning` 0.97 and 0.78, `predicted_neq_given` 0.63 and 0.99.
FILTER = "prune_by_noise_rate"


@dataclass(frozen=True)
class LabelAudit:
    """What the audit of a predictions table found.

    Attributes:
        listed: the contradicted rows of the table, the surest first, with `suggested` (0 or 1) and `quality`
            (the probability given to the row's own label).
        n_rows: rows of the table.
        estimated_share: share of wrong labels by confident learning (Northcutt et al. 2021). Mistakes of the network
            that it is sure of count as well.
        allowed_share: share of wrong labels, spread evenly, with which a perfect detector still reaches the target.
        target_mcc: that target.
    """

    listed: pd.DataFrame
    n_rows: int
    estimated_share: float
    allowed_share: float
    target_mcc: float

    @property
    def sentence(self) -> str:
        """The finding in words."""
        n_listed = len(self.listed)
        return (
            f"{n_listed:,} of {self.n_rows:,} rows ({n_listed / self.n_rows:.2%}) have a label that the "
            f"out-of-fold predictions contradict. Estimated share of wrong labels: {self.estimated_share:.2%}, "
            f"sure mistakes of the network included; an MCC of {self.target_mcc:g} allows {self.allowed_share:.2%}."
        )


def check_audit_installed() -> None:
    """Whether cleanlab is there.

    Raises:
        MissingExtraError: it is not.
    """
    try:
        import cleanlab  # noqa: F401, PLC0415 -- an extra
    except ImportError as error:
        raise MissingExtraError(
            "The label audit needs cleanlab. Install it: `pip install 'roadwork-vision[report]'`, or skip it with "
            "--no-audit."
        ) from error


def audit_labels(frame: pd.DataFrame, target_mcc: float) -> LabelAudit:
    """Lists the rows of a predictions table whose label looks wrong.

    Args:
        frame: out-of-fold predictions; each row was predicted by a network that was not trained on it.
        target_mcc: what the share of wrong labels is held against.

    Raises:
        MissingExtraError: cleanlab is not installed.
    """
    check_audit_installed()
    from cleanlab.count import num_label_issues  # noqa: PLC0415
    from cleanlab.filter import find_label_issues  # noqa: PLC0415

    labels, probability = frame["label"].to_numpy(), frame["probability"].to_numpy()
    both = np.column_stack([1 - probability, probability])
    is_issue = find_label_issues(labels, both, filter_by=FILTER, n_jobs=1)
    listed = frame[is_issue].assign(
        suggested=1 - labels[is_issue], quality=both[np.arange(len(frame)), labels][is_issue]
    )
    allowed = errors_allowed(int((labels == 0).sum()), int((labels == 1).sum()), target_mcc)[0]
    return LabelAudit(
        listed.sort_values(["quality", "id"], ignore_index=True),
        len(frame),
        float(num_label_issues(labels, both, estimation_method="off_diagonal_calibrated")) / len(frame),
        allowed / len(frame),
        target_mcc,
    )


def write_label_audit(audit: LabelAudit, cross_validation: CrossValidation) -> tuple[Path, Path]:
    """Writes `label_audit.csv`, all rows that are listed, and `label_audit.html`, the first 500 with their pictures.

    A csv that a person has filled in is left as it is.

    Returns:
        The page and the csv.
    """
    settings, table = cross_validation.settings, cross_validation.table
    rows = pd.Series(np.arange(len(table)), index=table.ids)[audit.listed["id"]].to_numpy()
    names = _names_of_labels(settings.data.class_names)
    gps = coarsen(table.gps[rows], settings.privacy.coarsen_gps)
    columns = {
        "id": audit.listed["id"],
        "filename": audit.listed["filename"],
        "label": [names[label] for label in audit.listed["label"]],
        "suggested_label": [names[label] for label in audit.listed["suggested"]],
        "probability": audit.listed["probability"].round(6),
        "quality": audit.listed["quality"].round(6),
        "latitude": gps[:, 0],
        "longitude": gps[:, 1],
        "sequence": table.sequence_ids[rows],
        "corrected_label": "",
    }
    listed = pd.DataFrame(columns)
    csv_file, page = (cross_validation.folder / f"label_audit.{suffix}" for suffix in ("csv", "html"))
    if is_filled_in(csv_file):
        logger.warning("%s has been filled in, so it is left as it is. Move it away to have it written anew.", csv_file)
    else:
        with atomic_path(csv_file) as temporary:
            listed.to_csv(temporary, index=False)
    pictures = read_thumbnails(cross_validation.source, rows[:MAX_SHOWN].tolist(), min(len(rows), MAX_SHOWN))
    write_audit_page(page, listed[:MAX_SHOWN], pictures, summary=audit.sentence, names=names)
    return page, csv_file


def _names_of_labels(class_names: Mapping[str, int]) -> tuple[str, str]:
    """The first name of None and of Roadwork."""
    none, roadwork = (next(name for name, value in class_names.items() if value == label) for label in (0, 1))
    return none, roadwork
