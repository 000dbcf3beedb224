"""Finds labels that out-of-fold predictions contradict, and writes the audit page."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from roadwork.core.files import atomic_path
from roadwork.core.progress import track
from roadwork.data.images import ImageSource, UnreadableImageError, decode_short_side
from roadwork.data.label_corrections import DROP, is_filled_in
from roadwork.data.utils.privacy import round_positions
from roadwork.experiments.comparison import check_installed
from roadwork.experiments.plan import Plan
from roadwork.metrics.results import errors_allowed

logger = logging.getLogger(__name__)

MAX_SHOWN = 500
THUMBNAIL = (400, 300)  # pixels; about 15 KB each
_TEMPLATE = Path(__file__).with_name("audit_page.html")

# The best of cleanlab's filters on 85 planted errors among 4,320 demo rows: precision 0.92, recall 0.89. The others:
# `confident_learning` 0.97 and 0.78, `predicted_neq_given` 0.63 and 0.99.
FILTER = "prune_by_noise_rate"


def write_audit_page(
    path: Path, listed: pd.DataFrame, pictures: Sequence[bytes | None], *, summary: str, names: tuple[str, str]
) -> None:
    """Writes the page, one file that works offline.

    Args:
        path: the file.
        listed: the rows of `label_audit.csv` to show, the most confident first.
        pictures: JPEG bytes of each row, or None if its image cannot be read.
        summary: the result of the audit, shown at the top.
        names: of None and Roadwork.
    """
    rows = [list(listed.columns), *listed.astype(str).where(listed.notna(), "").to_numpy().tolist()]
    cards = (_card(row, picture, names) for row, picture in zip(listed.itertuples(), pictures, strict=True))
    text = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        summary=escape(summary),
        shown=f"The page shows {len(listed):,} rows, the most confident contradiction first.",
        none=escape(names[0]),
        roadwork=escape(names[1]),
        cards="\n".join(cards),
        rows=json.dumps(rows, ensure_ascii=False).replace("<", "\\u003c"),  # so that no file name can end the script
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_thumbnails(source: ImageSource, rows: Iterable[int], total: int) -> list[bytes | None]:
    """Small upright JPEGs of these rows with their aspect ratio; None if an image cannot be read."""
    return [_thumbnail(source, row) for row in track(rows, total, "Drawing the label audit")]


def _thumbnail(source: ImageSource, row: int) -> bytes | None:
    try:
        small = Image.fromarray(decode_short_side(source.read(row), min(THUMBNAIL)))
    except UnreadableImageError:
        return None
    small.thumbnail(THUMBNAIL)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=75)  # a new file, without the EXIF position of the photo
    return buffer.getvalue()


def _card(row: Any, picture: bytes | None, names: tuple[str, str]) -> str:
    """A card for one row of the csv, given as a named tuple."""
    name, row_id = escape(row.filename or row.id), escape(row.id)
    image = '<div class="lost">This image cannot be read.</div>'
    if picture is not None:
        image = f'<img loading="lazy" alt="{name}" src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">'
    choices = "".join(
        f'<label><input type="radio" name="{row_id}" value="{escape(value)}"> {escape(value)}</label>'
        for value in (*names, DROP)
    )
    sequence = f'<p class="small">sequence {escape(row.sequence)}</p>' if row.sequence else ""
    return (
        f'<article tabindex="0">{image}<div class="text">'
        f"<p>Labelled <b>{escape(row.label)}</b>, predicted <b>{escape(row.suggested_label)}</b> "
        f"with {max(row.probability, 1 - row.probability):.1%}</p>"
        f'<p class="small">{name}</p>{sequence}'
        f"<fieldset>{choices}</fieldset></div></article>"
    )


@dataclass(frozen=True)
class LabelAudit:
    """The result of a label audit.

    Attributes:
        listed: the rows whose label is contradicted, the most confident first, with `suggested` (0 or 1) and `quality`
            (the predicted probability of the row's own label).
        n_rows: rows of the predictions table.
        estimated_share: share of wrong labels by confident learning (Northcutt et al. 2021). Confident mistakes of the
            network count as well.
        allowed_share: share of wrong labels, spread evenly, with which a perfect detector still reaches the target.
        target_mcc: the target.
    """

    listed: pd.DataFrame
    n_rows: int
    estimated_share: float
    allowed_share: float
    target_mcc: float

    @property
    def sentence(self) -> str:
        """The result in words."""
        n_listed = len(self.listed)
        return (
            f"{n_listed:,} of {self.n_rows:,} rows ({n_listed / self.n_rows:.2%}) have a label that the out-of-fold "
            f"predictions contradict. Estimated share of wrong labels: {self.estimated_share:.2%}, including confident "
            f"mistakes of the network; an MCC of {self.target_mcc:g} allows {self.allowed_share:.2%}."
        )


def check_audit_installed() -> None:
    check_installed("cleanlab", "The label audit (--no-audit skips it)")


def audit_labels(frame: pd.DataFrame, target_mcc: float) -> LabelAudit:
    """Lists the rows of a predictions table whose label looks wrong.

    Args:
        frame: out-of-fold predictions: no row was in the training rows of the network that predicts it.
        target_mcc: the MCC that limits the allowed share of wrong labels.

    Raises:
        MissingExtraError: cleanlab is not installed.
    """
    check_audit_installed()
    from cleanlab.count import num_label_issues  # noqa: PLC0415 -- an extra
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


def write_label_audit(audit: LabelAudit, plan: Plan) -> tuple[Path, Path]:
    """Writes `label_audit.csv` with all listed rows, and `label_audit.html` with the first 500 and their images.

    A csv with corrections is not overwritten.

    Returns:
        The page and the csv.
    """
    settings, table = plan.settings, plan.dataset.table
    rows = pd.Series(np.arange(len(table)), index=table.ids)[audit.listed["id"]].to_numpy()
    names = _names_of_labels(settings.data.class_names)
    gps = round_positions(table.gps[rows], settings.privacy.coarsen_gps)
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
    csv_file, page = (plan.folder / f"label_audit.{suffix}" for suffix in ("csv", "html"))
    if is_filled_in(csv_file):
        logger.warning("%s has corrections, so it is not overwritten. Move it to get a new one.", csv_file)
    else:
        with atomic_path(csv_file) as temporary:
            listed.to_csv(temporary, index=False)
    pictures = read_thumbnails(plan.dataset.source, rows[:MAX_SHOWN].tolist(), min(len(rows), MAX_SHOWN))
    write_audit_page(page, listed[:MAX_SHOWN], pictures, summary=audit.sentence, names=names)
    return page, csv_file


def _names_of_labels(class_names: Mapping[str, int]) -> tuple[str, str]:
    """The first name of None and of Roadwork."""
    none, roadwork = (next(name for name, value in class_names.items() if value == label) for label in (0, 1))
    return none, roadwork
