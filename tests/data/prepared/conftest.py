"""A small set of photos that a test may change, and its resized copy."""

import csv
import shutil

import pytest

from roadwork.data.prepared import write
from roadwork.data.prepared.copy import find_copy
from roadwork.data.prepared.plan import plan_copy
from roadwork.data.prepared.write import lock_copy, write_copy
from roadwork.data.source import read_dataset
from roadwork.settings import DataSettings, PreparedSettings


class PhotoSet:
    """`N_PHOTOS` demo scenes of 160 x 120 pixels in their own folder."""

    N_PHOTOS = 20
    ROWS_PER_SHARD = 6

    def __init__(self, root, demo_root):
        self.root = root
        (root / "images").mkdir(parents=True)
        with (demo_root / "labels.csv").open(newline="") as file:
            self.rows = list(csv.DictReader(file))[: self.N_PHOTOS]
        for row in self.rows:
            shutil.copy2(demo_root / row["filename"], self.path(row["filename"]))
        self.write_labels()

    def path(self, filename):
        return self.root / filename

    def photo(self, number):
        return self.path(self.rows[number]["filename"])

    def write_labels(self, order=None):
        rows = [self.rows[number] for number in order] if order is not None else self.rows
        with (self.root / "labels.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(rows)

    def data(self, img_size=32, **prepared):
        return DataSettings(root=str(self.root), img_size=img_size, prepared=PreparedSettings(**prepared))

    def prepare(self, processes=1, data=None):
        """Plans and writes the copy; returns the plan and the summary."""
        data = data or self.data()
        with lock_copy(data) as manifest:
            plan = plan_copy(data, manifest, *read_dataset(data))
            return plan, write_copy(plan, processes)

    def find(self, data=None):
        """The table, the photos, and the copy that training would read."""
        data = data or self.data()
        table, source = read_dataset(data)
        return table, source, find_copy(data, table, source)


@pytest.fixture
def photo_set(tmp_path, demo_root, monkeypatch):
    """Photos that a test may change, with their own cache and small shards in the resized copy."""
    monkeypatch.setenv("ROADWORK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(write, "MAX_ROWS", PhotoSet.ROWS_PER_SHARD)
    return PhotoSet(tmp_path / "photos", demo_root)
