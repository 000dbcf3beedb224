"""Two real processes (gloo, on the CPU) train like one with twice the batch size."""

import signal
import socket

import pytest
import torch
import torch.multiprocessing as mp
from fixtures.two_processes import CASES, fit, result_of, train_together

QUICK = "resnet"  # it has BatchNorm, and processes with different numbers of validation batches


def train(folder, demo_root, cases, *, is_stopped):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(train_together, (port, str(folder), str(demo_root), cases, is_stopped), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory, demo_root):
    return train(tmp_path_factory.mktemp("together"), demo_root, [QUICK], is_stopped=False)


@pytest.fixture(scope="module")
def thorough(tmp_path_factory, demo_root):
    """All other fits, in one start of two processes."""
    cases = [case for case in CASES if case != QUICK]
    return train(tmp_path_factory.mktemp("together"), demo_root, cases, is_stopped=True)


def assert_alike(found, expected, **tolerance):
    for what in ("weights", "average"):
        assert found[what].keys() == expected[what].keys()
        for name, value in expected[what].items():
            torch.testing.assert_close(
                found[what][name], value, **tolerance, msg=lambda text, name=name: f"{name}: {text}"
            )
    assert (found["ranks"], found["best"]) == (expected["ranks"], expected["best"])
    assert len(found["metrics"]) == len(expected["metrics"]) == 2
    for line, wanted in zip(found["metrics"], expected["metrics"], strict=True):
        assert line.keys() == wanted.keys()
        for key in line.keys() - {"seconds"}:
            assert line[key] == pytest.approx(wanted[key], rel=1e-6, abs=1e-6), key


@pytest.mark.parametrize(
    "case", [QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in CASES if case != QUICK)]
)
def test_two_processes_equal_one_with_twice_the_batch(case, tmp_path, demo_root, request):
    """Weights, averages (with BatchNorm's statistics), pruned ranks and metrics, on a val_select of odd sizes."""
    together = request.getfixturevalue("quick" if case == QUICK else "thorough")
    alone = result_of(fit(case, tmp_path, demo_root, 1))
    first, second = (torch.load(together / f"{case} {rank}.pt") for rank in range(2))
    assert_alike(first, alone, rtol=1e-7, atol=1e-9)
    assert_alike(first, second, rtol=0, atol=0)
    assert first["run"] == second["run"]


@pytest.mark.slow
def test_signal_to_one_process_stops_both_and_resumes(thorough):
    for rank in range(2):
        resumed = torch.load(thorough / f"resumed {rank}.pt")
        assert resumed["exit code"] == 128 + signal.SIGTERM
        assert_alike(resumed, torch.load(thorough / f"uninterrupted {rank}.pt"), rtol=0, atol=0)
