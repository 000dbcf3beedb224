"""The misclassified photos."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
import pandas as pd

from roadwork.core.progress import track
from roadwork.data.images import UnreadableImageError
from roadwork.metrics.decision import decide
from roadwork.metrics.predictions import further_columns
from roadwork.report.error_map import draw_error_map
from roadwork.report.page import Section, why_no_test_rows
from roadwork.report.privacy import make_thumbnail
from roadwork.report.run_files import RunFiles
from roadwork.report.sections.dataset import RunData

MAX_SHOWN = 24


@dataclass(frozen=True)
class Card:
    """A photo of the gallery.

    Attributes:
        title: file name, or a number if names are hidden.
        probability: probability of Roadwork in percent, as text.
        facts: (name, value) of group, distance and further columns.
        picture: a `data:` URL; None if the photo cannot be shown.
    """

    title: str
    probability: str
    facts: list[tuple[str, str]]
    picture: str | None


def errors_section(run: RunFiles, data: RunData | str) -> Section:
    """Missed roadwork and false alarms on val_test, the most confident first, and a map of them."""
    title = "Errors on val_test"
    rows = run.test_rows
    if rows is None:
        return Section("errors", title, missing=why_no_test_rows(run.predictions))
    label, decided = rows["label"].to_numpy(), decide(rows["probability"].to_numpy(), run.threshold)
    wrong = rows[label != decided].copy()
    wrong["distance"] = np.abs(wrong["probability"] - run.threshold)
    wrong = wrong.sort_values("distance", ascending=False, kind="stable").drop(columns="distance")
    privacy = run.settings.privacy
    kinds = [
        (
            name,
            len(chosen),
            _cards(chosen.head(MAX_SHOWN), data, hides=privacy.coarsen_gps is not None, blur=privacy.blur),
        )
        for name, chosen in (
            ("Missed roadwork", wrong[wrong["label"] == 1]),
            ("False alarms", wrong[wrong["label"] == 0]),
        )
    ]
    shown = {
        "kinds": kinds,
        "threshold": run.threshold,
        "n_rows": len(rows),
        "n_wrong": len(wrong),
        "map": draw_error_map(rows, label != decided),
        "privacy": privacy,
        "no_photos": data if isinstance(data, str) else None,
        "max_shown": MAX_SHOWN,
    }
    return Section("errors", title, shown)


def _cards(rows: pd.DataFrame, data: RunData | str, *, hides: bool, blur: float) -> list[Card]:
    numbers = {} if isinstance(data, str) else {row_id: number for number, row_id in enumerate(data.table.ids.tolist())}
    cards = []
    for place, (_, row) in enumerate(track(rows.iterrows(), len(rows), "Reading photos"), start=1):
        facts = [] if hides else [("group", str(row["group"]))]
        if not np.isnan(row["distance_km"]):
            facts.append(("distance", f"{row['distance_km']:,.0f} km"))
        facts += [(name, str(row[name])) for name in further_columns(rows) if not pd.isna(row[name])]
        # A file name can reveal the place in ways that no rule detects.
        title = f"photo {place}" if hides else row["filename"] or row["id"]
        picture = None if isinstance(data, str) else _picture(data, numbers.get(row["id"]), blur)
        cards.append(Card(str(title), _percent(row["probability"]), facts, picture))
    return cards


def _picture(data: RunData, number: int | None, blur: float) -> str | None:
    if number is None:
        return None
    try:
        thumbnail = make_thumbnail(data.source.read(number), blur)
    except UnreadableImageError:
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(thumbnail).decode()}"


def _percent(probability: float) -> str:
    """In percent, never rounded to 0 % or 100 %."""
    return f"{min(max(probability, 0.0001), 0.9999):.2%}" if not 0.001 <= probability <= 0.999 else f"{probability:.1%}"
