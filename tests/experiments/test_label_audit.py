"""The list of labels that look wrong, its csv and its page."""

import io
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image

from roadwork.core.errors import MissingExtraError
from roadwork.data.images import UnreadableImageError
from roadwork.data.label_corrections import apply_label_corrections
from roadwork.data.open import Dataset
from roadwork.data.table import SampleTable
from roadwork.experiments.label_audit import _names_of_labels, audit_labels, check_audit_installed, write_label_audit
from roadwork.experiments.plan import Plan
from roadwork.settings import Settings

CLASS_NAMES = {"None": 0, "Roadwork": 1}


def predictions(n_sequences=400, frames=4, errors=0.03, seed=0):
    """A detector that is confident when correct and uncertain in the sequences where it errs; labels are correct."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n_sequences)
    errs = rng.random(n_sequences) < errors
    sequence = np.repeat(np.arange(n_sequences), frames)
    of_truth = np.where(errs[sequence], rng.uniform(0.2, 0.5, len(sequence)), rng.beta(30, 1, len(sequence)))
    label = truth[sequence]
    return pd.DataFrame({
        "id": [f"i{i:05d}" for i in range(len(sequence))],
        "filename": [f"{i}.jpg" for i in range(len(sequence))],
        "label": label,
        "probability": np.where(label == 1, of_truth, 1 - of_truth),
        "sequence": sequence,
    })  # fmt: skip


def plant(frame, by, share=0.02, seed=1):
    """(N,) bool: the rows whose label is flipped, single ones or whole sequences."""
    units = frame["sequence"] if by == "sequence" else frame["id"]
    names = units.unique()
    chosen = np.random.default_rng(seed).choice(names, round(share * len(names)), replace=False)
    return units.isin(chosen).to_numpy()


@pytest.mark.parametrize("by", ["row", "sequence"])
def test_planted_wrong_labels_are_found(by):
    frame = predictions()
    planted = plant(frame, by)
    frame["label"] = np.where(planted, 1 - frame["label"], frame["label"])
    audit = audit_labels(frame, 0.99)
    listed, wrong = set(audit.listed["id"]), set(frame["id"][planted])
    assert len(listed & wrong) / len(wrong) >= 0.95  # recall
    assert len(listed & wrong) / len(listed) >= 0.60  # precision, with the detector's own mistakes among them
    first = set(audit.listed["id"][: len(wrong)])
    assert len(first & wrong) / len(wrong) >= 0.90  # the planted ones are the most confident
    assert audit.listed["quality"].is_monotonic_increasing
    assert (audit.listed["suggested"] == 1 - audit.listed["label"]).all()
    assert ((audit.listed["probability"] >= 0.5) == (audit.listed["suggested"] == 1)).all()
    assert audit.estimated_share == pytest.approx(0.02, abs=0.015)


def test_audit_without_contradicted_labels():
    audit = audit_labels(predictions(errors=0.0), 0.99)
    assert len(audit.listed) == 0
    assert "0 of 1,600" in audit.sentence
    # 0.99 of balanced classes: each error takes 2 / N from the MCC, so half a per cent.
    assert audit.allowed_share == pytest.approx(0.005, abs=0.001)
    assert f"{audit.allowed_share:.2%}" in audit.sentence


def test_a_missing_extra_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'roadwork-vision\[report\]'"):
        check_audit_installed()


class Photos:
    """Photos with an EXIF position; row 0 cannot be read."""

    def __init__(self):
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned
        exif.get_ifd(0x8825)[1] = "N"
        exif.get_ifd(0x8825)[2] = (52.0, 22.0, 13.0)
        buffer = io.BytesIO()
        Image.new("RGB", (640, 480), (200, 90, 30)).save(buffer, "JPEG", exif=exif)
        self.photo = buffer.getvalue()

    def read(self, row):
        if row == 0:
            raise UnreadableImageError("gone")
        return self.photo

    def read_ends(self, row):
        raise NotImplementedError


EVIL = '</script><img src=x onerror="alert(1)">&;=é'


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """An audit of 700 contradicted rows, written; the table; and a function that writes it again."""
    frame = predictions(300, errors=0.0)
    frame["label"] = np.where(frame.index < 700, 1 - frame["label"], frame["label"])
    frame.loc[3, "filename"] = EVIL
    n = len(frame)
    table = SampleTable(
        frame["id"].to_numpy(dtype=object), frame["filename"].to_numpy(dtype=object), frame["label"].to_numpy(),
        np.tile([52.123456, 4.987654], (n, 1)), frame["sequence"].map(lambda s: f"{EVIL}{s}").to_numpy(dtype=object),
        pd.DataFrame(index=range(n)),
    )  # fmt: skip
    settings = Settings()
    settings.privacy.coarsen_gps = 1
    folder, cfg = tmp_path_factory.mktemp("audit"), OmegaConf.create()
    plan = Plan(folder, cfg, {}, Dataset(settings, table, Photos()), [])
    audit = audit_labels(frame, 0.99)
    listed = frame[:700].assign(suggested=1 - frame["label"][:700], quality=np.linspace(0, 0.4, 700))
    object.__setattr__(audit, "listed", listed)

    def write():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("roadwork.experiments.label_audit.MAX_SHOWN", 60)
            return write_label_audit(audit, plan)

    return write(), table, write


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_the_page_is_one_file_and_escapes_names(audited):
    (page, _), _, _ = audited
    text = page.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    names = [tag for tag, _ in tags.seen]
    assert names.count("article") == 60
    assert names.count("script") == 2  # none comes from a file name
    images = [attributes for tag, attributes in tags.seen if tag == "img"]
    assert len(images) == 59
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    assert not [attributes for _, attributes in tags.seen if "onerror" in attributes]
    assert images[2]["alt"] == EVIL
    assert not re.search(r"https?://|//cdn|url\(", text)
    assert text.count('class="lost"') == 1
    assert "700 of 1,200 rows" in text
    rows = json.loads(re.search(r'id="rows">(.*?)</script>', text, re.DOTALL)[1])
    assert len(rows) == 61
    assert rows[4][1] == EVIL


def test_thumbnails_are_upright_without_position(audited):
    import base64

    (page, _), _, _ = audited
    encoded = re.search(r"data:image/jpeg;base64,([^\"]+)", page.read_text(encoding="utf-8"))[1]
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        assert image.size == (225, 300)
        assert not image.getexif()


def test_the_csv_lists_all_rows_and_is_read_back(audited, tmp_path):
    (_, csv_file), table, _ = audited
    listed = pd.read_csv(csv_file, dtype=str, keep_default_na=False)
    assert list(listed) == [
        "id", "filename", "label", "suggested_label", "probability", "quality", "latitude", "longitude", "sequence",
        "corrected_label",
    ]  # fmt: skip
    assert len(listed) == 700
    assert set(listed["latitude"]) == {"52.1"}
    assert set(listed["corrected_label"]) == {""}
    assert listed["label"].map(CLASS_NAMES).tolist() == table.labels[:700].tolist()
    assert (listed["label"] != listed["suggested_label"]).all()
    listed.loc[:9, "corrected_label"] = listed.loc[:9, "suggested_label"]
    listed.loc[10, "corrected_label"] = "drop"
    filled_in = tmp_path / "filled_in.csv"
    listed.to_csv(filled_in, index=False, sep=";", encoding="utf-8-sig")
    corrected = apply_label_corrections(table, filled_in, CLASS_NAMES)
    assert (corrected.labels[:10] == 1 - table.labels[:10]).all()
    assert (corrected.labels[10:] == table.labels[10:]).all()
    assert corrected.dropped_ids == {table.ids[10]}


def test_corrections_are_not_overwritten(audited, caplog):
    (page, csv_file), _, write = audited
    written = csv_file.read_text(encoding="utf-8")
    filled_in = re.sub(r",$", ",drop", written, count=1, flags=re.MULTILINE)
    assert filled_in != written
    try:
        csv_file.write_text(filled_in, encoding="utf-8")
        assert write() == (page, csv_file)
        assert csv_file.read_text(encoding="utf-8") == filled_in
        assert csv_file.name in caplog.text
    finally:
        csv_file.write_text(written, encoding="utf-8")


def test_the_names_on_the_page_are_the_first_of_each_label():
    assert _names_of_labels({"works": 1, "None": 0, "Roadwork": 1}) == ("None", "works")
