"""Runs that are struck go on to the end of the uninterrupted one; a handful of moments of `scripts/kill_table.py`."""

import sys

import pytest
import torch
from fixtures.config import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "scripts"))

from kill_table import LORA, Moment, digest, ending, prepare, strike_and_resume, train_whole


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROADWORK_CACHE", str(folder / "cache"))
        yield prepare(folder)


@pytest.fixture(scope="module")
def whole(job, tmp_path_factory):
    """What an uninterrupted run ends with, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return train_whole(job, folder)[0], (folder / "whole" / "latest").resolve()


@pytest.mark.parametrize(
    "moment",
    [
        Moment("in a step", 14),
        Moment("inside a save", 9),
        pytest.param(Moment("between its renames", 7), marks=pytest.mark.slow),
        pytest.param(Moment("in validation", 5), marks=pytest.mark.slow),
        pytest.param(Moment("a worker", 12), marks=pytest.mark.slow),
        pytest.param(Moment("SIGTERM", 4), marks=pytest.mark.slow),
        pytest.param(Moment("SIGINT", 20), marks=pytest.mark.slow),
        pytest.param(Moment("full disk", 6), marks=pytest.mark.slow),
    ],
    ids=lambda moment: moment.kind,
)
def test_killed_run_ends_like_an_uninterrupted_run(job, whole, tmp_path, moment):
    outcome = strike_and_resume(moment, tmp_path, job, whole[0])
    assert outcome.faults == ()
    assert outcome.resumed_at is not None
    assert outcome.resumed_at > 0


@pytest.mark.slow
def test_with_an_adapter(job, tmp_path):
    (tmp_path / "whole").mkdir()
    whole, _ = train_whole(job, tmp_path / "whole", *LORA)
    assert strike_and_resume(Moment("in a step", 13, LORA), tmp_path, job, whole).faults == ()


def test_a_difference_of_one_bit_is_seen(whole):
    hashes, folder = whole
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    before = path.read_bytes()
    name = next(iter(checkpoint["raw_state_dict"]))
    weight = checkpoint["raw_state_dict"][name]
    weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(9.0))
    torch.save(checkpoint, path)
    changed = ending(folder)
    path.write_bytes(before)
    assert {part for part, value in changed.items() if value != hashes[part]} == {"weights"}
    assert digest({"a": [1, 2.0]}) != digest({"a": [1, 2.5]})
