import time

import numpy as np
import pandas as pd
import pytest

from roadwork.core.errors import DataError
from roadwork.data.utils.gps_utils import normalize_gps

NAMES = [f"photo{i}.jpg" for i in range(10)]
NAN = float("nan")


def test_floats_win_and_text_fills_where_they_are_missing():
    gps = normalize_gps([52.5, None, NAN], [13.4, None, NAN], ["1, 1", "48.8, 2.3", ""], NAMES[:3])
    np.testing.assert_array_equal(gps.coordinates, [[52.5, 13.4], [48.8, 2.3], [NAN, NAN]])
    assert gps.coordinates.dtype == np.float64
    assert (gps.n_from_floats, gps.n_from_text, gps.n_missing, gps.n_zero) == (1, 1, 1, 0)
    assert gps.notes == ("GPS of 3 rows: 1 from numbers, 1 from text, 1 missing.",)


@pytest.mark.parametrize(
    "missing",
    [None, NAN, "", "  ", "nan", "(nan, nan)", "None, None", "NULL", pd.NA, {"lat": None, "lon": None}, [NAN, NAN]],
)
def test_every_kind_of_missing_text(missing):
    gps = normalize_gps(None, None, ["1, 2", missing], NAMES[:2])
    np.testing.assert_array_equal(gps.coordinates, [[1, 2], [NAN, NAN]])


def test_number_columns_that_are_text():
    gps = normalize_gps(
        ["52.5", "52,5", "52°30'N", " ", "nan"], ["13.4", "-13,4", "13°24'W", None, ""], None, NAMES[:5]
    )
    expected = [[52.5, 13.4], [52.5, -13.4], [52.5, -13.4], [NAN, NAN], [NAN, NAN]]
    np.testing.assert_allclose(gps.coordinates, expected, atol=1e-12)


def test_pairs_and_mappings_as_parquet_holds_them():
    column = [[52.5, 13.4], np.array([52.5, 13.4]), {"lat": 52.5, "lon": 13.4}, (52.5, 13.4)]
    gps = normalize_gps(None, None, column, NAMES[:4])
    np.testing.assert_array_equal(gps.coordinates, [[52.5, 13.4]] * 4)


def test_nullable_pandas_columns():
    column = pd.Series([1.5, pd.NA], dtype="Float64")
    np.testing.assert_array_equal(normalize_gps(column, column, None, NAMES[:2]).coordinates, [[1.5, 1.5], [NAN, NAN]])


def test_null_island_is_missing_but_a_single_zero_is_not():
    latitude, longitude = np.zeros(8), np.array([0.0, 5, 0, 0, 0, 0, 0, -0.0])
    gps = normalize_gps(latitude, longitude, None, NAMES[:8])
    assert np.isnan(gps.coordinates[:, 0]).tolist() == [True, False, True, True, True, True, True, True]
    np.testing.assert_array_equal(gps.coordinates[1], [0, 5])
    assert (gps.n_missing, gps.n_zero) == (7, 7)
    note = gps.notes[1]
    assert note.startswith("7 rows at exactly (0, 0)")
    assert "photo0.jpg, photo2.jpg, photo3.jpg, photo4.jpg, photo5.jpg." in note
    assert not longitude[2]  # the caller's columns are untouched


def test_no_columns_at_all():
    assert np.isnan(normalize_gps(None, None, None, NAMES).coordinates).all()
    assert normalize_gps(None, None, None, []).coordinates.shape == (0, 2)


@pytest.mark.parametrize(
    ("latitude", "longitude", "text", "message"),
    [
        ([1.0], None, None, "latitude column.*longitude"),
        (None, [1.0], None, "data.columns.latitude=COLUMN"),
        ([1.0, 2.0], [1.0, 2.0], None, r"\b2 values.*\b1 rows"),
        ([1.0], [None], ["3, 4"], r"1 of 1 rows.*photo0\.jpg \(latitude 1, longitude nan\)"),
        (["north"], [1.0], None, r"1 of 1 rows.*latitude.*photo0\.jpg \('north'"),
        (["13E"], [1.0], None, "13E.*longitude"),
        (None, None, ["nowhere"], r"photo0\.jpg \('nowhere'"),
        ([10.0], [200.0], None, "longitude 200.*-180 and 180"),
        ([float("inf")], [20.0], None, "latitude inf"),
    ],
)
def test_unusable_columns_are_rejected(latitude, longitude, text, message):
    with pytest.raises(DataError, match=message):
        normalize_gps(latitude, longitude, text, NAMES[:1])


def test_swapped_columns_name_the_first_rows_and_count_all():
    with pytest.raises(DataError) as caught:
        normalize_gps([139.7] * 7 + [35.0] * 3, [35.7] * 10, None, NAMES)
    message = str(caught.value)
    assert "7 of 10 rows" in message
    assert "photo4.jpg (latitude 139.7, longitude 35.7)" in message
    assert "photo5.jpg" not in message
    assert "make 7" in message


def test_swapped_texts_are_one_error_too():
    with pytest.raises(DataError, match=r"2 of 2 rows.*[Ss]wapping"):
        normalize_gps(None, None, ["139.7, 35.7", "POINT(35.7 139.7)"], NAMES[:2])


def test_unreadable_texts_name_the_first_rows_and_count_all():
    with pytest.raises(DataError) as caught:
        normalize_gps(None, None, ["1, 2", *["1 2 3"] * 6], NAMES[:7])
    assert "6 of 7 rows" in str(caught.value)
    assert "photo1.jpg" in str(caught.value)
    assert "photo6.jpg" not in str(caught.value)


def test_million_rows_in_a_second():
    rng = np.random.default_rng(0)
    latitude, longitude = rng.uniform(-90, 90, 10**6), rng.uniform(-180, 180, 10**6)
    start = time.process_time()
    gps = normalize_gps(latitude, longitude, None, np.arange(10**6))
    assert time.process_time() - start < 1
    np.testing.assert_array_equal(gps.coordinates, np.stack([latitude, longitude], axis=1))


def test_missing_values_in_named_and_numpy_texts():
    texts = ["lat: null, lon: null", "lat=nan lon=nan", "(np.float64(nan), np.float64(nan))"]
    assert normalize_gps(None, None, texts, ["a", "b", "c"]).n_missing == 3
