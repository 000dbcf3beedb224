"""Label corrections from a filled-in label audit."""

import numpy as np
import pandas as pd
import pytest

from roadwork.core.errors import DataError
from roadwork.data.label_corrections import apply_label_corrections, is_filled_in
from roadwork.data.table import SampleTable

NAMES = {"None": 0, "Roadwork": 1}


@pytest.fixture
def table():
    n = 6
    return SampleTable(
        ids=np.array([f"00{i}" for i in range(n)], dtype=object),
        filenames=np.array([f"{i}.jpg" for i in range(n)], dtype=object),
        labels=np.array([0, 1, 0, 1, 0, 1]),
        gps=np.full((n, 2), np.nan),
        sequence_ids=np.full(n, "", dtype=object),
        slices=pd.DataFrame({"city": list("abcdef")}),
        notes=("read",),
    )


def write(path, rows, separator=",", encoding="utf-8"):
    lines = [("id", "filename", "label", "probability", "corrected_label"), *rows]
    path.write_text("\r\n".join(separator.join(line) for line in lines) + "\r\n", encoding=encoding)
    return path


ROWS = [
    ("000", "0.jpg", "None", "0.9", "Roadwork"),
    ("001", "1.jpg", "Roadwork", "0.1", ""),
    ("002", "2.jpg", "None", "0.9", " 0 "),
    ("003", "3.jpg", "1", "0.2", "Drop"),
    ("005", "5.jpg", "1", "0.2", "0.0"),
]


@pytest.mark.parametrize(("separator", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8-sig")])
def test_filled_in_rows_change_only_the_table(table, tmp_path, separator, encoding):
    path = write(tmp_path / "audit.csv", ROWS, separator, encoding)
    corrected = apply_label_corrections(table, path, NAMES)
    assert corrected.ids.tolist() == table.ids.tolist()  # row numbers of splits and images stay valid
    assert corrected.dropped_ids == {"003"}
    assert corrected.labels.tolist() == [1, 1, 0, 1, 0, 0]
    assert corrected.source_fingerprint() == table.fingerprint() != corrected.fingerprint()
    assert table.labels.tolist() == [0, 1, 0, 1, 0, 1]  # the argument does not change
    assert corrected.notes[0] == "read"
    assert "2 labels corrected, 1 confirmed, 1 rows dropped" in corrected.notes[1]


def test_empty_audit_changes_nothing(table, tmp_path):
    path = write(tmp_path / "audit.csv", [(*row[:-1], "") for row in ROWS])
    corrected = apply_label_corrections(table, path, NAMES)
    assert not corrected.dropped_ids
    assert corrected.labels.tolist() == table.labels.tolist()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("4", "4.jpg", "0", "0.9", "1"), r"line 3 \(id '4'\).*'000'"),
        (("004", "4.jpg", "0", "0.9", "maybe"), r"line 3 \(id '004', corrected_label 'maybe'\).*0, 1, None"),
        (("004", "4.jpg", "1", "0.9", "1"), r"line 3 \(id '004', label '1', now 0\)"),
        (("004", "4.jpg", "", "0.9", "drop"), r"line 3 \(id '004', label '', now 0\)"),
        (("000", "0.jpg", "0", "0.9", "1"), r"line 2 \(id '000'\); line 3 \(id '000'\)"),
    ],
)
def test_invalid_corrections_are_reported_with_their_line(table, tmp_path, row, message):
    path = write(tmp_path / "audit.csv", [ROWS[0], row])
    with pytest.raises(DataError, match=message):
        apply_label_corrections(table, path, NAMES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"audit\.csv"),
        (b"", r"audit\.csv"),
        ("id,label,corrected_label\n\xfc,0,1\n".encode("latin-1"), r"audit\.csv.*UTF-8"),
        (b"id,label\n000,0\n", "corrected_label.*id, label"),
        (b"id,label,corrected_label\n000,0,1,surplus\n", r"\b3 columns"),
    ],
)
def test_unusable_file(table, tmp_path, content, message):
    path = tmp_path / "audit.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        apply_label_corrections(table, path, NAMES)


@pytest.mark.parametrize(
    ("answer", "expected"), [("", False), (" ", False), ("drop", True), ("1", True), ("nonsense", True)]
)
def test_file_with_a_correction_is_filled_in(tmp_path, answer, expected):
    assert is_filled_in(write(tmp_path / "audit.csv", [("000", "0.jpg", "0", "0.9", answer)])) is expected


def test_unrecognised_audit_file_counts_as_filled_in(tmp_path):
    (tmp_path / "audit.csv").write_text("my notes")
    assert is_filled_in(tmp_path / "audit.csv")
    assert not is_filled_in(tmp_path / "absent.csv")


def test_dropped_rows_keep_the_source_fingerprint(table, tmp_path):
    prints = [
        apply_label_corrections(table, write(tmp_path / "audit.csv", [("000", "", "0", "", "drop"), second]), NAMES)
        for second in [("001", "", "1", "", "drop"), ("001", "", "1", "", "1")]
    ]
    assert len({table.fingerprint(), *(corrected.fingerprint() for corrected in prints)}) == 3
    assert {corrected.source_fingerprint() for corrected in prints} == {table.fingerprint()}
