"""Crash recovery: an interrupted and resumed run equals an uninterrupted one (see scripts/crash_recovery.py)."""

import sys

import pytest
import torch
from fixtures.config import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "scripts"))

from crash_recovery import LORA, Moment, digest, interrupt_and_resume, prepare, result_hashes, train_uninterrupted


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crash-recovery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROADWORK_CACHE", str(folder / "cache"))
        yield prepare(folder)


@pytest.fixture(scope="module")
def uninterrupted(job, tmp_path_factory):
    """The result hashes of an uninterrupted run, and its folder."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return train_uninterrupted(job, folder)[0], (folder / "uninterrupted" / "latest").resolve()


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
def test_resumed_run_equals_an_uninterrupted_run(job, uninterrupted, tmp_path, moment):
    outcome = interrupt_and_resume(moment, tmp_path, job, uninterrupted[0])
    assert outcome.faults == ()
    assert outcome.resumed_at is not None
    assert outcome.resumed_at > 0


@pytest.mark.slow
def test_resumed_lora_run_equals_an_uninterrupted_run(job, tmp_path):
    (tmp_path / "uninterrupted").mkdir()
    expected, _ = train_uninterrupted(job, tmp_path / "uninterrupted", *LORA)
    assert interrupt_and_resume(Moment("in a step", 13, LORA), tmp_path, job, expected).faults == ()


def test_difference_of_one_bit_is_detected(uninterrupted):
    hashes, folder = uninterrupted
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    before = path.read_bytes()
    name = next(iter(checkpoint["raw_state_dict"]))
    weight = checkpoint["raw_state_dict"][name]
    weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(9.0))
    torch.save(checkpoint, path)
    changed = result_hashes(folder)
    path.write_bytes(before)
    assert {part for part, value in changed.items() if value != hashes[part]} == {"weights"}
    assert digest({"a": [1, 2.0]}) != digest({"a": [1, 2.5]})
