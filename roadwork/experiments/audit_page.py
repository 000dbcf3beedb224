"""`label_audit.html`: the contradicted rows with their pictures, to be decided in a browser without a network."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
from PIL import Image, ImageOps

from roadwork.data.images import FORMATS, ImageSource, UnreadableImageError
from roadwork.data.label_corrections import DROP
from roadwork.progress import track
from roadwork.runs import atomic_path

MAX_SHOWN = 500
THUMBNAIL = (400, 300)  # pixels; some 15 KB each
_TEMPLATE = Path(__file__).with_name("audit_page.html")


def write_audit_page(
    path: Path, listed: pd.DataFrame, pictures: Sequence[bytes | None], *, summary: str, names: tuple[str, str]
) -> None:
    """Writes the page: one file that asks nothing of a network.

    Args:
        path: the file.
        listed: the rows of `label_audit.csv` to show, the surest first.
        pictures: JPEG bytes of each, or None where it cannot be read.
        summary: what the audit found, for its head.
        names: of None and Roadwork.
    """
    rows = [list(listed.columns), *listed.astype(str).where(listed.notna(), "").to_numpy().tolist()]
    cards = (_card(row, picture, names) for row, picture in zip(listed.itertuples(), pictures, strict=True))
    text = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        summary=escape(summary),
        shown=f"The {len(listed):,} rows that are shown come from the surest contradiction to the least sure.",
        none=escape(names[0]),
        roadwork=escape(names[1]),
        cards="\n".join(cards),
        rows=json.dumps(rows, ensure_ascii=False).replace("<", "\\u003c"),  # no name can end the script
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_thumbnails(source: ImageSource, rows: Iterable[int], total: int) -> list[bytes | None]:
    """Small JPEGs of these rows, in their own shape and upright; None where one cannot be read."""
    return [_thumbnail(source, row) for row in track(rows, total, "Drawing the label audit")]


def _thumbnail(source: ImageSource, row: int) -> bytes | None:
    try:
        with Image.open(io.BytesIO(source.read(row)), formats=FORMATS) as image:
            image.draft("RGB", (2 * THUMBNAIL[0], 2 * THUMBNAIL[1]))
            small = ImageOps.exif_transpose(image).convert("RGB")
            small.thumbnail(THUMBNAIL)
    except (UnreadableImageError, OSError, ValueError, Image.DecompressionBombError):
        return None
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=75)  # a new file: no position of the photo's EXIF comes along
    return buffer.getvalue()


def _card(row: Any, picture: bytes | None, names: tuple[str, str]) -> str:
    """One row of the csv as a card; `row` is its named tuple."""
    name, row_id = escape(row.filename or row.id), escape(row.id)
    image = '<div class="lost">This picture cannot be read.</div>'
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
