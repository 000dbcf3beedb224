"""One part of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
