"""The HTML page of a report, self-contained and without scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from roadwork import __version__

_TEMPLATES = Path(__file__).parent / "templates"
_DASH = "–"


@dataclass(frozen=True)
class Section:
    """A heading and the content below it.

    Attributes:
        name: name of its template and its anchor.
        title: heading.
        shown: values for the template.
        missing: why there is no content, and which command creates it; None if there is content.
    """

    name: str
    title: str
    shown: Mapping[str, Any] = field(default_factory=dict)
    missing: str | None = None


NOT_EVALUATED = "Not available yet. Run roadwork evaluate RUN."
NO_TEST_ROWS = "predictions.parquet has no rows of val_test."


def why_no_test_rows(predictions: object) -> str:
    """Why a section has no rows of val_test."""
    return NOT_EVALUATED if predictions is None else NO_TEST_ROWS


def render_page(name: str, kind: str, sections: Sequence[Section]) -> str:
    """The HTML of the page.

    Args:
        name: name of the run or runs.
        kind: word before the name: Run or Comparison.
        sections: from top to bottom.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,  # names and values of the data are untrusted
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "count": _count, "percent": _percent}
    style = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        name=name,
        kind=kind,
        sections=sections,
        style=Markup(style),  # noqa: S704 -- a file of this package
        policy=_policy(style),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )


def _policy(style: str) -> str:
    """The content security policy: this style sheet and embedded images; no script, no request."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _figure(value: float | None, digits: int = 4) -> str:
    return _DASH if value is None or value != value else f"{value:.{digits}f}"  # noqa: PLR0124 -- NaN


def _count(value: int | None) -> str:
    return _DASH if value is None else f"{value:,}"


def _percent(value: float | None, digits: int = 1) -> str:
    return _DASH if value is None else f"{value:.{digits}%}"
