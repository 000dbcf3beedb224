import copy
import pickle

import pytest
import torch

from roadwork.core.errors import DataError
from roadwork.data.augmentation import batch_augmentation as batch_check
from roadwork.data.augmentation.batch_augmentation import BatchCheck

LABELS = torch.tensor([0, 1])
GOOD = torch.rand(2, 3, 8, 8)
BAD = 255 * GOOD


class Arriving:
    """A fake copy from a device."""

    def __init__(self, values):
        self.values, self.reads = values.clone(), 0

    def read(self):
        self.reads += 1
        return self.values.tolist()


@pytest.fixture
def check(monkeypatch):
    """The check as on a GPU."""
    monkeypatch.setattr(batch_check, "_is_asynchronous", lambda device: True)
    monkeypatch.setattr(batch_check, "AsyncHostCopy", Arriving)
    return BatchCheck()


def test_first_batch_is_checked_at_once(check):
    with pytest.raises(DataError, match="Divide 8-bit values"):
        check(BAD, LABELS)


def test_later_batch_is_reported_at_the_next_call(check):
    check(GOOD, LABELS)
    check(BAD, LABELS)
    with pytest.raises(DataError, match="Divide 8-bit values"):
        check(GOOD, LABELS)
    check(GOOD, LABELS)


def test_later_batches_do_not_synchronize(check):
    check(GOOD, LABELS)
    first = check.pending
    check(GOOD, LABELS)
    assert first.reads == 2
    assert check.pending.reads == 0


def test_form_is_checked_at_once(check):
    check(GOOD, LABELS)
    with pytest.raises(DataError, match="floats"):
        check(BAD.byte(), LABELS)


def test_on_a_cpu_every_batch_is_checked_before_it_is_used():
    check = BatchCheck()
    check(GOOD, LABELS)
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        check(BAD, LABELS)
    with pytest.raises(DataError, match="0 to 2"):
        check(GOOD, 2 * LABELS)


def test_pending_checks_are_not_pickled(check):
    check(GOOD, LABELS)
    for other in (pickle.loads(pickle.dumps(check)), copy.deepcopy(check)):
        assert other.pending is None
        with pytest.raises(DataError):
            other(BAD, LABELS)
