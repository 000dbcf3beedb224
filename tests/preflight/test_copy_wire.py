"""The resized copy's row in the wiring table, with copies that are right, wrong, or lost."""

import numpy as np
import pytest

from roadwork.config import to_settings
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.images import decode_image
from roadwork.preflight.dry_run import run_dry
from roadwork.training.trainers.factory import prepare_trainer


class Copy:
    """Decodes the photos themselves, each shifted by so many rows."""

    def __init__(self, table, source, shift, lost=False):
        self.folder, self.source, self.shift, self.lost = "the/copy", source, shift, lost
        self.has = np.arange(len(table)) % 2 == 0

    def image(self, row, size):
        if self.lost or not self.has[row]:
            return None
        return decode_image(self.source.read((row + self.shift) % len(self.has)), size)


def row_with(config, monkeypatch, **options):
    monkeypatch.setattr(
        "roadwork.data.datamodule.find_copy", lambda data, table, source: Copy(table, source, **options)
    )
    datamodule = NATIXDataModule(config)
    rows = run_dry(datamodule, prepare_trainer(datamodule))
    return next(row for row in rows if row.wire == "resized copy")


def test_working_copy_passes(tiny_config, monkeypatch):
    row = row_with(tiny_config(), monkeypatch, shift=0)
    assert row.works
    assert "training images come from the/copy" in row.observed
    assert "8 of 8 that were compared differ from their photos by 0.0" in row.observed


@pytest.mark.parametrize("fault", [{"shift": 17}, {"shift": 0, "lost": True}])
def test_other_pictures_or_none(tiny_config, monkeypatch, fault):
    assert not row_with(tiny_config("data.cache=none"), monkeypatch, **fault).works


def test_no_check_without_a_copy(tiny_config):
    config = tiny_config()
    assert to_settings(config).data.prepared.use == "auto"
    datamodule = NATIXDataModule(config)
    assert "resized copy" not in {row.wire for row in run_dry(datamodule, prepare_trainer(datamodule))}
