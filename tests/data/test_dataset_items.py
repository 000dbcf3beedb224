"""Labels stay with their images, and unreadable images are named and counted."""

import io
import logging

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from roadwork.core.errors import DataError
from roadwork.data.dataset import ImageStore, RoadworkDataset, UnreadableLedger, collate
from roadwork.data.images import FileImages, UnreadableImage
from roadwork.data.table import SampleTable

N, SIZE = 12, 8
BROKEN = (3, 7)


def table_of(n=N):
    names = np.array([f"{i:02d}.png" for i in range(n)], dtype=object)
    return SampleTable(
        ids=names,
        filenames=names,
        labels=np.arange(n) % 2,
        gps=np.full((n, 2), np.nan),
        sequence_ids=np.full(n, "", dtype=object),
        slices=pd.DataFrame(index=range(n)),
    )


@pytest.fixture
def store(tmp_path):
    """Row i has the grey level 20 * (i + 1); rows 3 and 7 have intact ends, but damaged data between them."""
    paths = []
    for i in range(N):
        noise = np.random.default_rng(i).integers(-2, 3, (64, 64, 3))
        buffer = io.BytesIO()
        Image.fromarray((20 * (i + 1) + noise).astype(np.uint8)).save(buffer, "PNG")
        data = buffer.getvalue()
        if i in BROKEN:
            data = data[:60] + bytes(40) + data[100:]
        paths.append(tmp_path / f"{i:02d}.png")
        paths[-1].write_bytes(data)
    return ImageStore(FileImages(paths), SIZE)


def assert_truthful(batches):
    """Checks that images and labels belong to their rows, and that only damaged rows are unreadable."""
    rows, unreadable = [], []
    for batch in batches:
        assert batch["image"].dtype == torch.uint8
        assert batch["label"].dtype == batch["index"].dtype == torch.int64
        assert len(batch["image"]) == len(batch["label"]) == len(batch["index"])
        for image, label, row in zip(batch["image"], batch["label"].tolist(), batch["index"].tolist(), strict=True):
            assert image.shape == (3, SIZE, SIZE)
            assert abs(image.float().mean() - 20 * (row + 1)) < 2
            assert label == row % 2
            rows.append(row)
        unreadable += batch["unreadable"]
    assert sorted(rows) == [i for i in range(N) if i not in BROKEN]
    assert sorted(image.row for image in unreadable) == list(BROKEN)
    assert all("data stream" in image.reason for image in unreadable)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("in_ram", [False, True])
def test_batches_from_files_and_ram_with_and_without_workers(store, num_workers, in_ram):
    if in_ram:
        found = store.load_into_ram(np.arange(N))
        assert [image.row for image in found] == list(BROKEN)
    dataset = RoadworkDataset(table_of(), np.arange(N), store)
    assert_truthful(DataLoader(dataset, batch_size=4, num_workers=num_workers, collate_fn=collate))


def test_ram_cache_equals_decoding(store):
    decoded = {row: store.get(row) for row in range(N) if row not in BROKEN}
    store.load_into_ram(np.array([0, 5]))
    for row, image in decoded.items():  # rows that were not loaded are decoded, never blank
        assert torch.equal(store.get(row), image)
    assert store.get(3).row == 3


def test_rows_of_a_split(store):
    dataset = RoadworkDataset(table_of(), np.array([10, 4]), store)
    assert len(dataset) == 2
    assert [dataset[i]["index"] for i in range(2)] == [10, 4]
    assert dataset.labels.tolist() == [0, 0]
    assert dataset.gps.shape == (2, 2)


def test_batch_without_one_readable_image():
    batch = collate([UnreadableImage(1, "gone"), UnreadableImage(2, "gone")])
    assert len(batch["label"]) == len(batch["index"]) == len(batch["image"]) == 0
    assert [image.row for image in batch["unreadable"]] == [1, 2]


def test_find_unreadable_over_several_chunks(store, monkeypatch):
    monkeypatch.setattr("roadwork.data.dataset._CHUNK_ROWS", 5)
    store.source.paths[9].unlink()
    store.source.paths[10].write_bytes(b"")
    found = store.find_unreadable(np.array([11, 10, 0, 9, 1, 2, 4, 5]))
    assert [image.row for image in found] == [10, 9]


def test_too_many_unreadable_images_stop_the_run():
    ledger = UnreadableLedger(table_of(100), max_share=0.0)
    with pytest.raises(DataError) as caught:
        ledger.add([UnreadableImage(row, f"reason {row}") for row in range(20)])
    message = str(caught.value)
    assert all(f"  {row:02d}.png: reason {row}\n" in message for row in range(20))
    assert message.startswith("20 of 100 images cannot be read (20.00%)")
    assert "Allowed: 0.00% (data.max_unreadable)" in message
    with pytest.raises(DataError, match=r"(?s)25 of 100.*19\.png: reason 19\n.*\b5 more\n"):
        ledger.add([UnreadableImage(row, f"reason {row}") for row in range(25)])


def test_few_unreadable_images_warn_once(caplog):
    ledger = UnreadableLedger(table_of(100), max_share=0.02)
    with caplog.at_level(logging.WARNING):
        ledger.add([])
        ledger.add([UnreadableImage(1, "gone")])
        ledger.add([UnreadableImage(1, "gone")])
        ledger.add([UnreadableImage(2, "cut")])
    assert len(caplog.records) == 2
    assert "01.png: gone\n  02.png: cut\n" in caplog.text
    with pytest.raises(DataError, match="3 of 100"):
        ledger.add([UnreadableImage(3, "cut")])
