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
    """A heading, and what stands below it.

    Attributes:
        name: of its template, and of its place in the page's address.
        title: the heading.
        shown: what the template shows.
        missing: why there is nothing to show, and which command makes it; None where there is.
    """

    name: str
    title: str
    shown: Mapping[str, Any] = field(default_factory=dict)
    missing: str | None = None


NOT_EVALUATED = "Not there yet: roadwork evaluate RUN judges the run's splits, and makes this."


NO_TEST_ROWS = "The predictions hold no row of val_test, so there is nothing to show."


def why_no_test_rows(predictions: object) -> str:
    """The sentence for a part that needs val_test's rows and has none."""
    return NOT_EVALUATED if predictions is None else NO_TEST_ROWS


def render_page(name: str, kind: str, sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        name: of the run or runs.
        kind: stands before the name.
        sections: from top to bottom.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,  # names and values of the data come from strangers
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
        style=Markup(style),  # noqa: S704 -- our own file
        policy=_policy(style),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )


def _policy(style: str) -> str:
    """What the browser may use: this very style sheet and the pictures in the file, no script and no address."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _figure(value: float | None, digits: int = 4) -> str:
    return _DASH if value is None or value != value else f"{value:.{digits}f}"  # noqa: PLR0124 -- NaN


def _count(value: int | None) -> str:
    return _DASH if value is None else f"{value:,}"


def _percent(value: float | None, digits: int = 1) -> str:
    return _DASH if value is None else f"{value:.{digits}%}"
