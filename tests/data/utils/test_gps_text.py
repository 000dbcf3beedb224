import json

import numpy as np
import pytest
from geopy.point import Point
from hypothesis import assume, given
from hypothesis import strategies as st

from roadwork.core.errors import DataError
from roadwork.data.utils.gps_utils import parse_gps_string

# Seven decimals are 1 cm; every notation below writes all of them.
latitudes = st.integers(-90 * 10**7, 90 * 10**7).map(lambda n: n / 10**7)
longitudes = st.integers(-180 * 10**7, 180 * 10**7).map(lambda n: n / 10**7)


def with_letter(value: float, letters: str) -> str:
    return f"{abs(value):.7f}{letters[value < 0]}"


def in_dms(value: float, letters: str) -> str:
    thousandths = round(abs(value) * 3_600_000)
    minutes, milliseconds = divmod(thousandths, 60_000)
    degrees, minutes = divmod(minutes, 60)
    return f"{degrees}°{minutes}'{milliseconds / 1000:.3f}\"{letters[value < 0]}"


def iso_minutes(value: float, digits: int) -> str:
    degrees, rest = divmod(round(abs(value) * 10**7), 10**7)
    return f"{'-' if value < 0 else '+'}{degrees:0{digits}d}{rest * 60 / 10**7:013.10f}"


NOTATIONS = {
    "repr": lambda a, o: f"{a!r}, {o!r}",
    "tuple": lambda a, o: str((a, o)),
    "list": lambda a, o: str([a, o]),
    "no space": lambda a, o: f"{a:.7f},{o:.7f}",
    "space": lambda a, o: f"{a:.7f} {o:.7f}",
    "tab": lambda a, o: f" {a:.7f}\t{o:.7f} ",
    "semicolon": lambda a, o: f"{a:.7f};{o:.7f}",
    "brackets and a space": lambda a, o: f"( {a:.7f} {o:.7f} )",
    "degree signs": lambda a, o: f"{a:.7f}°, {o:.7f}°",
    "unicode minus": lambda a, o: f"{a:.7f}, {o:.7f}".replace("-", "−"),
    "letters after": lambda a, o: f"{with_letter(a, 'NS')} {with_letter(o, 'EW')}",
    "letters after, degree signs": lambda a, o: f"{with_letter(a, 'NS')}, {with_letter(o, 'EW')}".replace(
        "0N", "0° N"
    ).replace("0E", "0° E"),
    "letters, no separator": lambda a, o: with_letter(a, "NS") + with_letter(o, "EW"),
    "letters before": lambda a, o: f"{'NS'[a < 0]}{abs(a):.7f}, {'EW'[o < 0]} {abs(o):.7f}",
    "letters, longitude first": lambda a, o: f"{with_letter(o, 'EW')}, {with_letter(a, 'NS')}",
    "letters before, longitude first": lambda a, o: f"{'EW'[o < 0]}{abs(o):.7f} {'NS'[a < 0]}{abs(a):.7f}",
    "lower-case letters": lambda a, o: f"{with_letter(a, 'ns')} {with_letter(o, 'ew')}",
    "decimal commas; semicolon": lambda a, o: f"{a:.7f}; {o:.7f}".replace(".", ","),
    "decimal commas, space": lambda a, o: f"{a:.7f} {o:.7f}".replace(".", ","),
    "decimal commas, comma and space": lambda a, o: f"{a:.7f}".replace(".", ",") + ", " + f"{o:.7f}".replace(".", ","),
    "decimal commas, letters": lambda a, o: f"{with_letter(a, 'NS')} {with_letter(o, 'EW')}".replace(".", ","),
    "WKT": lambda a, o: f"POINT({o:.7f} {a:.7f})",
    "WKT with a space": lambda a, o: f"POINT ({o!r} {a!r})",
    "WKT Z": lambda a, o: f"POINT Z ({o:.7f} {a:.7f} 34.5)",
    "EWKT": lambda a, o: f"SRID=4326;POINT({o:.7f} {a:.7f})",
    "JSON": lambda a, o: json.dumps({"lat": a, "lon": o}),
    "JSON, long names": lambda a, o: json.dumps({"longitude": o, "latitude": a}),
    "JSON, lng": lambda a, o: json.dumps({"lat": a, "lng": o, "accuracy": 3}),
    "JSON, strings": lambda a, o: json.dumps({"lat": repr(a), "lon": repr(o)}),
    "Python dict": lambda a, o: str({"lat": a, "lon": o}),
    "GeoJSON": lambda a, o: json.dumps({"type": "Point", "coordinates": [o, a]}),
    "exponents": lambda a, o: f"{a:.12e}, {o:.12e}",
    "exponents without a sign": lambda a, o: f"{a / 10:.10f}e1 {o / 100:.10f}E2",
    "ISO 6709": lambda a, o: f"{a:+011.7f}{o:+012.7f}/",
    "ISO 6709, altitude": lambda a, o: f"{a:+011.7f}{o:+012.7f}+034.5CRSWGS_84/",
    "ISO 6709, minutes": lambda a, o: iso_minutes(a, 2) + iso_minutes(o, 3),
    "geo URI": lambda a, o: f"geo:{a:.7f},{o:.7f}",
    "geo URI, altitude and uncertainty": lambda a, o: f"geo:{a:.7f},{o:.7f},34.5;crs=wgs84;u=35",
    "names": lambda a, o: f"lat: {a:.7f}, lon: {o:.7f}",
    "names, longitude first": lambda a, o: f"Longitude={o:.7f}; Latitude={a:.7f}",
    "names, letters": lambda a, o: f"lat {with_letter(a, 'NS')} lng {with_letter(o, 'EW')}".replace(
        "t ", "t: "
    ).replace("g ", "g: "),
    "numpy's repr": lambda a, o: repr((np.float64(a), np.float64(o))),
    "numpy array": lambda a, o: f"array([{a:.7f}, {o:.7f}], dtype=float64)",
    "numpy array of the module": lambda a, o: f"np.array([np.float64({a!r}), np.float64({o!r})])",
    "altitude": lambda a, o: f"({a:.7f}, {o:.7f}, 34.5)",
    "altitude, no space": lambda a, o: f"{a:.7f},{o:.7f},-12",
    "GeoJSON, altitude": lambda a, o: json.dumps({"type": "Point", "coordinates": [o, a, 34.5]}),
}


@pytest.mark.parametrize("notation", NOTATIONS)
@given(latitude=latitudes, longitude=longitudes)
def test_every_notation_returns_what_was_written(notation, latitude, longitude):
    text = NOTATIONS[notation](latitude, longitude)
    assert parse_gps_string(text) == pytest.approx((latitude, longitude), abs=1e-12)


@given(latitude=latitudes, longitude=longitudes)
def test_degrees_minutes_seconds(latitude, longitude):
    text = f"{in_dms(latitude, 'NS')} {in_dms(longitude, 'EW')}"
    assert parse_gps_string(text) == pytest.approx((latitude, longitude), abs=0.5 / 3_600_000 + 1e-12)
    assert parse_gps_string(text.replace(".", ",")) == parse_gps_string(text)
    unmarked = text.replace("°", " ").replace("'", " ").replace('"', " ")
    assert parse_gps_string(unmarked) == parse_gps_string(text)


@given(latitude=st.floats(-90, 90), longitude=st.floats(-179.999, 179.999))
def test_agrees_with_geopy_on_the_text_geopy_writes(latitude, longitude):
    text = Point(latitude, longitude).format_unicode(altitude=False)
    assume("e-" not in text)  # geopy writes tiny seconds as 1e-07 and cannot read them back
    assume("60" not in text)  # and rounds up to 60 seconds
    expected = Point.from_string(text)
    assert parse_gps_string(text) == pytest.approx((expected.latitude, expected.longitude), abs=1e-9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(52.52, 13.40)", (52.52, 13.40)),
        ("0,0", (0, 0)),
        ("52, 13", (52, 13)),
        ("1e-05, -1e-05", (1e-5, -1e-5)),
        ("N 52° 31.2' E 13° 24'", (52.52, 13.4)),
        ("S 33° 51′ 30″, E 151° 12′ 30″", (-33.858333333, 151.208333333)),
        ("52°31'12''N, 13°24'E", (52.52, 13.4)),
        ("-0°30', -0.5", (-0.5, -0.5)),
        ("13.40E, 52.52", (52.52, 13.40)),
        ("-33.8N 151E", (-33.8, 151)),
        ("52,5°N 13°E", (52.5, 13)),
        ("point z (13 52 7)", (52, 13)),
        ("5.2e1, 1.34e1", (52, 13.4)),
        ("5.2E+1 1.34E+1", (52, 13.4)),
        ("POINT(1.34e1 5.2e1)", (52, 13.4)),
        ("+523012-0132400/", (52.503333333, -13.4)),
        ("-00.5+000.25/", (-0.5, 0.25)),
        ("52.5, 13.4, 34 ", (52.5, 13.4)),
        ("13.4E52.5N", (52.5, 13.4)),
    ],
)
def test_single_texts(text, expected):
    assert parse_gps_string(text) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "nan",
        "nan, nan",
        "inf, 3",
        "None",
        "52.52",
        "1e5",
        "1e-05",
        "52,",
        "garbage 12, 13",
        "12, 13 extra",
        "1 2 3",
        "1, 2, 3",
        "1,2,3",
        "52,52,13,40",
        "52 31 12 13 24 0",
        "(52.5, 13.4",
        "1.2.3, 4",
        "52°75'N 13°E",
        "52°30'60\"N 13°E",
        "+5275-01300/",
        "lat: 52.5, lat: 13.4",
        "lat: 52.5E, lon: 13.4N",
        "geo:52.5",
        "52.5, 13.4, 34, 5",
        "52.5°30'N 13°E",
        "52N 13S",
        "52E 13W",
        "N52N 13E",
        "-33.8S 151E",
        "POINT EMPTY",
        "POINT(13)",
        "SRID=3857;POINT(13 52)",
        "LINESTRING(1 2, 3 4)",
        "{}",
        "{bad",
        '{"lat": 52}',
        '{"lat": NaN, "lon": 1}',
        '{"lat": true, "lon": 1}',
        '{"type": "Point", "coordinates": [13]}',
        "1" * 1000,
        '{"type": "Polygon"}',
    ],
)
def test_texts_without_a_position_are_rejected(text):
    with pytest.raises(DataError, match="position") as caught:
        parse_gps_string(text)
    assert repr(text[:80]) in str(caught.value)
    assert "Accepted: '52.52, 13.40'" in str(caught.value)


@pytest.mark.parametrize("text", ["95, 10", "-120.5 45", "POINT(52 95)", '{"lat": 139.7, "lon": 35.7}'])
def test_out_of_range_latitude_suggests_the_swapped_order(text):
    with pytest.raises(DataError, match="swapped"):
        parse_gps_string(text)


@pytest.mark.parametrize("text", ["10, 200", "95, 200", "10, -180.001"])
def test_out_of_range_longitude_is_not_wrapped(text):
    with pytest.raises(DataError, match="between -180 and 180") as caught:
        parse_gps_string(text)
    assert "swapped" not in str(caught.value)


@given(st.text(alphabet="0123456789.,;+-NSEW°'\" ()[]{}:einfaPOT", max_size=40))
def test_any_text_gives_a_valid_position_or_a_data_error(text):
    try:
        latitude, longitude = parse_gps_string(text)
    except DataError:
        return
    assert abs(latitude) <= 90
    assert abs(longitude) <= 180
