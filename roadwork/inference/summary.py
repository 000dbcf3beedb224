"""What a prediction has found, counted on the way to its file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from roadwork.export.facts import ExportFacts
from roadwork.inference.detector import NONE, ROADWORK
from roadwork.inference.records import Record

_ERRORS_SHOWN = 20


@dataclass
class Summary:
    """Counts of all photos of an output.

    Attributes:
        n_photos: all of them.
        n_answered: in this call; the others had been answered before.
        seconds: that those took.
        n_roadwork, n_none: by label, those that abstain among them.
        n_abstained: too near the threshold.
        n_without_gps: that have no position.
        n_unreadable: that could not be read.
        unreadable: names and reasons of the first of them.
        n_sites: that were written; None where none were asked for.
    """

    n_photos: int = 0
    n_answered: int = 0
    seconds: float = 0.0
    n_roadwork: int = 0
    n_none: int = 0
    n_abstained: int = 0
    n_without_gps: int = 0
    n_unreadable: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    n_sites: int | None = None

    def count(self, records: Iterable[Record]) -> Iterator[Record]:
        """Passes the records on, counting them."""
        for record in records:
            self.n_photos += 1
            self.n_roadwork += record.label == ROADWORK
            self.n_none += record.label == NONE
            self.n_abstained += record.abstain is True
            self.n_without_gps += not record.has_gps
            if record.error is not None:
                self.n_unreadable += 1
                if len(self.unreadable) < _ERRORS_SHOWN:
                    self.unreadable.append((record.filename, record.error))
            yield record

    def lines(self) -> list[str]:
        """For people to read."""
        speed = f", {self.n_answered / self.seconds:,.1f} photos/s" if self.n_answered and self.seconds else ""
        earlier = self.n_photos - self.n_answered
        before = f" ({earlier:,} answered before)" if earlier else ""
        abstained = (
            f" {self.n_abstained:,} of them are too near the threshold to be answered." if self.n_abstained else ""
        )
        lines = [
            f"{self.n_photos:,} photos{before} in {self.seconds:,.1f} s{speed}.",
            f"Roadwork {self.n_roadwork:,}, None {self.n_none:,}.{abstained}",
        ]
        if self.n_without_gps:
            lines.append(f"{self.n_without_gps:,} are without GPS.")
        if self.n_unreadable:
            lines.append(f"{self.n_unreadable:,} cannot be read; the column error says why:")
            lines += [f"  {name}: {reason}" for name, reason in self.unreadable]
            if self.n_unreadable > len(self.unreadable):
                lines.append(f"  and {self.n_unreadable - len(self.unreadable):,} more")
        return lines


def threshold_in_words(facts: ExportFacts) -> str:
    """At which probability the detector decides, and for where that is meant."""
    if facts.prior is None:
        return f"The detector decides at {facts.threshold:.2g}, and was not calibrated."
    return f"The detector decides at {facts.threshold:.2g}, chosen for a share of Roadwork of {facts.prior:.2g}."
