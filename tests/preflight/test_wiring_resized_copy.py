"""Wiring table: the check of the resized copy passes a correct copy and fails a wrong or missing one."""

import numpy as np
import pytest
from fixtures.wiring import wiring_table

from roadwork.config import to_settings
from roadwork.data.images import decode_image


class FakeCopy:
    """Decodes the photos themselves; row N returns the photo of row N + shift."""

    def __init__(self, table, source, shift, lost=False):
        self.folder, self.source, self.shift, self.lost = "the/copy", source, shift, lost
        self.has = np.arange(len(table)) % 2 == 0

    def image(self, row, size):
        if self.lost or not self.has[row]:
            return None
        return decode_image(self.source.read((row + self.shift) % len(self.has)), size)


def check_copy(config, monkeypatch, **options):
    monkeypatch.setattr(
        "roadwork.data.datamodule.find_copy", lambda data, table, source: FakeCopy(table, source, **options)
    )
    return wiring_table(config)["resized copy"]


def test_working_copy_passes(tiny_config, monkeypatch):
    row = check_copy(tiny_config(), monkeypatch, shift=0)
    assert row.works
    assert all(part in row.observed for part in ("the/copy", "8 of 8", "0.0 of 255"))


@pytest.mark.parametrize("fault", [{"shift": 17}, {"shift": 0, "lost": True}])
def test_wrong_or_unreadable_copy_fails(tiny_config, monkeypatch, fault):
    assert not check_copy(tiny_config("data.cache=none"), monkeypatch, **fault).works


def test_no_check_without_a_copy(tiny_config):
    config = tiny_config()
    assert to_settings(config).data.prepared.use == "auto"
    assert "resized copy" not in wiring_table(config)
