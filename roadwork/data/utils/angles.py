"""Reads one angle in degrees: decimal, or degrees, minutes and seconds."""

import re
from typing import NamedTuple

_MAX_LENGTH = 500

# Look-alike characters from keyboards, word processors and map sites.
_LOOK_ALIKES = {"−": "-", "–": "-", "º": "°", "˚": "°", "′": "'", "’": "'", "´": "'", "″": '"', "”": '"', "“": '"'}
_LOOK_ALIKES_TABLE = str.maketrans(_LOOK_ALIKES)

# The exponent needs a sign, since the E in "13.4E52.5N" is a direction. `BARE_EXPONENT` finds where a sign is missing.
BARE_EXPONENT = re.compile(r"(?<=[\d.])E(?=\d{1,2}(?![\d.]|[ ]?[NSEW°':]))")
NUMBER = r"\d+(?:\.\d*)?(?:E[+-]\d{1,3})?"
SIZE = (
    rf"(?P<sign>[+-])?(?P<degrees>{NUMBER})"
    rf"(?:(?:[ ]?°[ ]?|[ :])(?P<minutes>{NUMBER})"
    rf"(?:(?:[ ]?'[ ]?|[ :])(?P<seconds>{NUMBER})(?:[ ]?\")?|[ ]?')?"
    r"|[ ]?°)?"
)
BACK = r"[NSW]|E(?![+-]\d{1,3}(?![\d.]|[ ]?[NS°]))"  # not the E of an exponent
_ANGLE_PATTERN = re.compile(rf"(?:(?P<front>[NSEW])[ ]?)?{SIZE}(?:[ ]?(?P<back>{BACK}))?")
DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")


class Angle(NamedTuple):
    """Degrees, and the axis given by a letter: ``latitude``, ``longitude`` or empty."""

    degrees: float
    axis: str


def is_in_range(latitude: float, longitude: float) -> bool:
    """Whether the pair is a place on Earth: latitude within ±90 degrees, longitude within ±180."""
    return abs(latitude) <= 90 and abs(longitude) <= 180


def sexagesimal(degrees: float, minutes: float, seconds: float) -> float:
    """Decimal degrees of unsigned degrees, minutes and seconds.

    Raises:
        ValueError: minutes or seconds are 60 or more, or a fraction precedes a smaller unit.
    """
    if (degrees % 1 and (minutes or seconds)) or (minutes % 1 and seconds):
        raise ValueError("degrees with minutes must be whole, and minutes with seconds")
    if not (degrees >= 0 and 0 <= minutes < 60 and 0 <= seconds < 60):
        raise ValueError("minutes and seconds must be from 0 to below 60")
    return (degrees * 3600 + minutes * 60 + seconds) / 3600  # rounds once, not three times


def read_angle(text: str) -> Angle:
    """An angle in decimal degrees (point or comma) or degrees, minutes and seconds.

    Raises:
        ValueError: the text is not one angle; the message is the reason, without the text.
    """
    match = _ANGLE_PATTERN.fullmatch(DECIMAL_COMMA.sub(".", BARE_EXPONENT.sub("E+", clean_text(text).upper())))
    if match is None:
        raise ValueError("it is not an angle in degrees")
    degrees, minutes, seconds = (float(match[part] or 0) for part in ("degrees", "minutes", "seconds"))
    letters = (match["front"] or "") + (match["back"] or "")
    if len(letters) > 1 or (match["sign"] == "-" and letters in {"S", "W"}):
        raise ValueError("its sign and letters contradict each other")
    if match["minutes"]:
        if not re.search("[NSEW°':]", match[0]):
            raise ValueError("three or more bare numbers are ambiguous")
        degrees = sexagesimal(degrees, minutes, seconds)
    is_negative = match["sign"] == "-" or letters in {"S", "W"}
    axis = {"": "", "N": "latitude", "S": "latitude"}.get(letters, "longitude")
    return Angle(-degrees if is_negative else degrees, axis)


def clean_text(text: str) -> str:
    text = str(text)
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"it has {len(text)} characters; allowed: up to {_MAX_LENGTH}")
    return " ".join(text.translate(_LOOK_ALIKES_TABLE).replace("''", '"').split())
