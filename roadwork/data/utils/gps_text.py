"""A position read from one piece of text, in the notations people store.

``geopy.point.Point.from_string`` is not used: it skips leading garbage, reads "52,52 13,40" as (13, 40), loses
the sign of -0°30', wraps longitudes beyond 180 in silence and takes 75 arc minutes for 1.25 degrees.
"""

import json
import math
import re
from typing import Any, NamedTuple

from roadwork.errors import DataError

ACCEPTED_FORMS = (
    "'52.52, 13.40' (latitude first; also with brackets, ';' or a space), '52.52°N 13.40°E' (letters set the order), "
    "52°31'12\"N 13°24'0\"E, '52,52; 13,40' (decimal commas), 'POINT(13.40 52.52)' (WKT, longitude first), "
    '{"lat": 52.52, "lon": 13.40} and a GeoJSON Point (longitude first)'
)
LATITUDE_NAMES = ("latitude", "lat")
LONGITUDE_NAMES = ("longitude", "lon", "lng")

_MAX_LENGTH = 500
# Look-alikes that keyboards, word processors and map sites write, and what they stand for.
_LOOK_ALIKES = {"−": "-", "–": "-", "º": "°", "˚": "°", "′": "'", "’": "'", "´": "'", "″": '"', "”": '"', "“": '"'}
_LOOK_ALIKES_TABLE = str.maketrans(_LOOK_ALIKES)
_BRACKETS = {"(": ")", "[": "]"}

# The exponent's sign is mandatory, as Python writes it: in "13.4E52.5N" the E is a direction.
_NUMBER = r"\d+(?:\.\d*)?(?:E[+-]\d{1,3})?"
_SIZE = (
    rf"(?P<sign>[+-])?(?P<degrees>{_NUMBER})"
    rf"(?:(?:[ ]?°[ ]?|[ :])(?P<minutes>{_NUMBER})"
    rf"(?:(?:[ ]?'[ ]?|[ :])(?P<seconds>{_NUMBER})(?:[ ]?\")?|[ ]?')?"
    r"|[ ]?°)?"
)
_ANGLE_PATTERN = re.compile(rf"(?:(?P<front>[NSEW])[ ]?)?{_SIZE}(?:[ ]?(?P<back>[NSEW]))?")
_UNNAMED_SIZE = re.sub(r"\?P<\w+>", "?:", _SIZE)
_ONE_OF_PAIR = rf"((?:[NSEW][ ]?){_UNNAMED_SIZE}|{_UNNAMED_SIZE}(?:[ ]?[NSEW])?)"
_PAIR_PATTERN = re.compile(rf"{_ONE_OF_PAIR}([ ]?[,;/][ ]?|[ ]|(?<=[NSEW])){_ONE_OF_PAIR}")
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")
_SIGNED = rf"[+-]?{_NUMBER}"
_WKT_PATTERN = re.compile(
    r"(?:SRID ?= ?(?P<srid>\d+) ?; ?)?POINT ?(?:Z|M|ZM)? ?"
    rf"\( ?(?P<x>{_SIGNED}) (?P<y>{_SIGNED})(?: {_SIGNED}){{0,2}} ?\)"
)


class Angle(NamedTuple):
    """Degrees, and which axis a letter said they are on: ``latitude``, ``longitude`` or empty."""

    degrees: float
    axis: str


def parse_gps_string(text: str) -> tuple[float, float]:
    """Latitude and longitude in degrees, from any of the notations of ``ACCEPTED_FORMS``.

    Raises:
        DataError: The text is not a position, or lies outside latitude ±90 and longitude ±180.
    """
    try:
        latitude, longitude = read_pair(text)
    except ValueError as error:
        raise DataError(f"Cannot read {str(text)[:80]!r} as a position: {error}. Accepted: {ACCEPTED_FORMS}.") from None
    if not is_in_range(latitude, longitude):
        hint = "Latitude must be between -90 and 90, longitude between -180 and 180."
        if is_in_range(longitude, latitude):
            hint += " In swapped order the position would be valid: write the latitude first."
        raise DataError(f"{text[:80]!r} reads as latitude {latitude:g}, longitude {longitude:g}. {hint}")
    return latitude, longitude


def is_in_range(latitude: float, longitude: float) -> bool:
    """Whether the pair is a place on Earth: latitude within ±90 degrees, longitude within ±180."""
    return abs(latitude) <= 90 and abs(longitude) <= 180


def read_pair(text: str) -> tuple[float, float]:
    """Latitude and longitude as written, in range or not.

    Raises:
        ValueError: The text is none of the accepted notations; the message is the reason, without the text.
    """
    clean = _clean(text)
    if clean.startswith("{"):
        return _read_json(clean)
    clean = clean.upper()
    wkt = _WKT_PATTERN.fullmatch(clean)
    if wkt:
        if wkt["srid"] not in (None, "4326"):
            raise ValueError(f"SRID {wkt['srid']} is not longitude and latitude in degrees (SRID 4326)")
        return float(wkt["y"]), float(wkt["x"])
    if _BRACKETS.get(clean[:1]) == clean[-1:]:
        clean = clean[1:-1].strip()
    return _read_angles(clean)


def read_angle(text: str) -> Angle:
    """One angle in decimal degrees (point or comma) or degrees, minutes and seconds.

    Raises:
        ValueError: The text is not one angle; the message is the reason, without the text.
    """
    match = _ANGLE_PATTERN.fullmatch(_DECIMAL_COMMA.sub(".", _clean(text).upper()))
    if match is None:
        raise ValueError("it is not an angle in degrees")
    degrees, minutes, seconds = (float(match[part] or 0) for part in ("degrees", "minutes", "seconds"))
    letters = (match["front"] or "") + (match["back"] or "")
    if len(letters) > 1 or (match["sign"] == "-" and letters in {"S", "W"}):
        raise ValueError("its sign and letters contradict each other")
    if match["minutes"]:
        if not re.search("[NSEW°':]", match[0]):
            raise ValueError("three or more bare numbers are ambiguous")
        if degrees % 1 or (match["seconds"] and minutes % 1) or minutes >= 60 or seconds >= 60:
            raise ValueError("degrees with minutes must be whole, minutes and seconds below 60")
        degrees = (degrees * 3600 + minutes * 60 + seconds) / 3600  # one rounding, not three
    is_negative = match["sign"] == "-" or letters in {"S", "W"}
    axis = {"": "", "N": "latitude", "S": "latitude"}.get(letters, "longitude")
    return Angle(-degrees if is_negative else degrees, axis)


def _clean(text: str) -> str:
    text = str(text)
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"it has {len(text)} characters, and no position needs over {_MAX_LENGTH}")
    return " ".join(text.translate(_LOOK_ALIKES_TABLE).replace("''", '"').split())


def _read_angles(text: str) -> tuple[float, float]:
    pair = _PAIR_PATTERN.fullmatch(text)
    if pair is None:
        # Commas inside numbers are decimal only where something else tells the two numbers apart.
        with_points, n_commas = _DECIMAL_COMMA.subn(".", text)
        if n_commas >= 2 or re.search("[;°NSEW]", text):
            pair = _PAIR_PATTERN.fullmatch(with_points)
    if pair is None:
        raise ValueError("it is not two numbers in degrees")
    first, second = read_angle(pair[1]), read_angle(pair[3])
    if not pair[2] and not (first.axis and second.axis):
        raise ValueError("it is one number")
    if first.axis and first.axis == second.axis:
        raise ValueError(f"its letters make both numbers a {first.axis}")
    if first.axis == "longitude" or second.axis == "latitude":
        first, second = second, first
    return first.degrees, second.degrees


def _read_json(text: str) -> tuple[float, float]:
    try:
        values = json.loads(text.replace("'", '"'))
    except json.JSONDecodeError:
        raise ValueError("it is not valid JSON") from None
    values = {key.lower(): value for key, value in values.items()}
    if values.get("type") == "Point" and isinstance(values.get("coordinates"), list):
        longitude, latitude = (values["coordinates"] + [None, None])[:2]
    else:
        latitude, longitude = (_first_of(values, names) for names in (LATITUDE_NAMES, LONGITUDE_NAMES))
    return _json_degrees(latitude), _json_degrees(longitude)


def _first_of(values: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((values[name] for name in names if name in values), None)


def _json_degrees(value: Any) -> float:
    if isinstance(value, str):
        return read_angle(value).degrees
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ValueError(f"it lacks a number for one of {'/'.join(LATITUDE_NAMES)} and {'/'.join(LONGITUDE_NAMES)}")
