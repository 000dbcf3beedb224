"""Columns are found by name, and every label is 0, 1 or an error that names its row."""

import numpy as np
import pandas as pd
import pytest

from roadwork.core.errors import DataError
from roadwork.data.columns import find_columns, parse_labels, table_from_frame

NAMES = {"None": 0, "Roadwork": 1}


def table_of(**columns):
    frame = pd.DataFrame(columns)
    return table_from_frame(frame, find_columns(list(frame.columns), {}), NAMES, source="test")


def test_plain_columns_win_over_nested_ones():
    found = find_columns(["Label", "video_info.vid_id", "meta.lat", "lat", "lng"], {})
    assert found == {"label": "Label", "latitude": "lat", "longitude": "lng", "sequence_id": "video_info.vid_id"}


def test_overrides_win_and_are_checked():
    assert find_columns(["label", "works"], {"label": "works"})["label"] == "works"
    with pytest.raises(DataError, match=r"'y'.*label, works"):
        find_columns(["label", "works"], {"latitude": "y"})
    with pytest.raises(DataError, match=r"data\.columns\.lable.*id, filename"):
        find_columns(["label"], {"lable": "label"})


def test_file_names_can_replace_the_id_column():
    found = find_columns(["id", "filename", "label"], {"id": "filename"})
    assert found == {"id": "filename", "filename": "filename", "label": "label"}


def test_labels_of_all_kinds():
    values = [0, 1, 0.0, np.int64(1), True, "1", " Roadwork ", "None"]
    assert parse_labels(values, NAMES, ["r"] * 8).tolist() == [0, 1, 0, 1, 1, 1, 1, 0]


def test_label_words():
    words = ["yes", "No", "TRUE", "false", " Yes ", True, np.bool_(False)]
    assert parse_labels(words, NAMES, words).tolist() == [1, 0, 1, 0, 1, 1, 0]
    assert parse_labels(["yes", "no"], {"yes": 0, "no": 1}, ["a", "b"]).tolist() == [0, 1]


def test_class_names_precede_numbers():
    assert parse_labels(["0", "1"], {"0": 1, "1": 0}, ["a", "b"]).tolist() == [1, 0]


@pytest.mark.parametrize("bad", [2, -1, 0.5, None, float("nan"), pd.NA, "none", "", "roads", [1]])
def test_bad_label_names_its_row_and_value(bad):
    with pytest.raises(DataError) as caught:
        parse_labels([0, bad, 1, bad], NAMES, ["row 0 (a)", "row 1 (b)", "row 2 (c)", "row 3 (d)"])
    message = str(caught.value)
    assert "2 of 4 rows" in message
    assert f"row 1 (b): {bad!r}" in message
    assert f"row 3 (d): {bad!r}" in message
    assert "data.class_names" in message


def test_empty_dataset_and_missing_label_column():
    with pytest.raises(DataError, match="no rows"):
        table_of(filename=[], label=[])
    with pytest.raises(DataError, match=r"filename, klass.*data\.columns\.label=NAME"):
        table_of(filename=["a"], klass=[0])


def test_repeated_and_missing_ids():
    with pytest.raises(DataError, match=r"\b1 ids.*'x'.*data\.columns\.id=NAME"):
        table_of(id=["x", "y", "x"], filename=["a", "b", "c"], label=[0, 1, 0])
    with pytest.raises(DataError, match=r"\bid\b.*1 rows.*row 1"):
        table_of(id=["x", None], filename=["a", "b"], label=[0, 1])


def test_repeated_file_names_make_row_numbers_the_ids():
    table = table_of(filename=["a", "a"], label=[0, 1])
    assert table.ids.tolist() == ["00000000", "00000001"]
    assert any("row numbers" in note for note in table.notes)


def test_integers_with_gaps_stay_whole_and_extras_become_slices():
    table = table_of(
        filename=["a", "b"], label=[0, 1], sequence_id=[12.0, None], captured_at=["2024-01-01", None], city=["x", "y"]
    )
    assert table.sequence_ids.tolist() == ["12", ""]
    assert list(table.slices.columns) == ["captured_at", "city"]


def test_gps_text_fills_rows_without_floats():
    table = table_of(
        filename=["a", "b", "c"],
        label=[0, 1, 0],
        lat=[1.5, None, None],
        lng=[2.5, None, None],
        gps=["", "(3.5, 4.5)", None],
    )
    np.testing.assert_array_equal(table.gps, [[1.5, 2.5], [3.5, 4.5], [np.nan, np.nan]])
    assert table.gps_coverage == pytest.approx(2 / 3)


def test_fingerprint_ignores_row_order_and_sees_every_field():
    columns = {
        "filename": ["a", "b", "c"],
        "label": [0, 1, 0],
        "lat": [1.0, 2.0, None],
        "lon": [1.0, 2.0, None],
        "sequence_id": ["s", "s", "t"],
    }
    table = table_of(**columns)
    assert table.take(np.array([2, 0, 1])).fingerprint() == table.fingerprint()
    assert table.take(np.array([True, True, False])).ids.tolist() == ["a", "b"]
    for field, value in (("filename", "z"), ("label", 0), ("lat", 2.5), ("sequence_id", "t")):
        changed = {**columns, field: [columns[field][0], value, columns[field][2]]}
        assert table_of(**changed).fingerprint() != table.fingerprint(), field
