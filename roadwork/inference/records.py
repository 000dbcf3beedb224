"""One photo's answer: a row of what `roadwork predict` writes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Record:
    """What is said of a photo, or why nothing could be.

    Attributes:
        key: by which the photo is known again; not in the output.
        filename: as the user named it.
        label: `Roadwork` or `None` (the text); None, as the next two, where the photo cannot be read.
        probability: calibrated, of Roadwork.
        abstain: whether the detector would rather not answer.
        latitude, longitude: in degrees; None without a position.
        captured_at: ISO 8601, with the camera's offset from UTC where it wrote one; None where unknown.
        error: why the photo cannot be read.
    """

    key: str
    filename: str
    label: str | None = None
    probability: float | None = None
    abstain: bool | None = None
    latitude: float | None = None
    longitude: float | None = None
    captured_at: str | None = None
    error: str | None = None

    @property
    def has_gps(self) -> bool:
        return self.latitude is not None and self.longitude is not None

    def as_row(self) -> dict[str, Any]:
        """The output's columns in their order."""
        row = asdict(self)
        del row["key"]
        return row

    def to_line(self) -> bytes:
        """A line of a partial file; names of any bytes survive, as JSON escapes what is no Unicode."""
        return json.dumps(astuple(self), allow_nan=False).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """The record of a line.

        Raises:
            ValueError: the line is damaged.
        """
        values = json.loads(line)
        if not isinstance(values, list) or len(values) != len(fields(cls)):
            raise ValueError(f"it is no list of {len(fields(cls))}")
        return cls(*values)


COLUMNS = tuple(field.name for field in fields(Record) if field.name != "key")


def shown_name(name: str) -> str:
    """A file's name as UTF-8 can write it: bytes that are no UTF-8 become backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def known(degrees: float) -> float | None:
    """None for NaN."""
    return None if math.isnan(degrees) else degrees
