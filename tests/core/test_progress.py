import logging
import time

import pytest

from roadwork.core import progress


@pytest.fixture
def lines(monkeypatch, caplog):
    """Messages of the progress log; standard error is no terminal, and lines are due every 0.05 s."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.05)
    caplog.set_level(logging.INFO, logger="roadwork")
    return lambda: [record.getMessage() for record in caplog.records]


def test_without_a_terminal_progress_is_logged(lines):
    passed = []
    for item in progress.track(range(6), 6, "Drawing scenes"):
        time.sleep(0.06)
        passed.append(item)
    assert passed == list(range(6))
    assert lines()
    assert all("Drawing scenes" in line and "of 6" in line for line in lines())


def test_manual_updates_are_logged(lines):
    with progress.new_progress() as shown:
        task = shown.add_task("Copying", total=2000)
        time.sleep(0.06)
        shown.update(task, completed=500)
        shown.advance(task)
    assert len(lines()) == 1
    assert "500 of 2,000 (25 %)" in lines()[0]


def test_short_work_logs_nothing(caplog):
    caplog.set_level(logging.INFO, logger="roadwork")
    assert list(progress.track(range(100), 100, "Reading")) == list(range(100))
    assert not caplog.records
