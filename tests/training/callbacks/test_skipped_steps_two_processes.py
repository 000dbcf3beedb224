"""Two real processes (gloo, on the CPU) skip a step together, and stay equal."""

import json
import socket

import pytest
import torch
import torch.multiprocessing as mp
from fixtures.tiny_fits import differing, train_with_faults

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # two processes import everything, perhaps on a busy machine


def test_bad_step_of_one_process_is_skipped_by_both(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(train_with_faults, (port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert differing(first, second) == []
    assert all(value.isfinite().all() for value in first.values() if value.is_floating_point())
    assert first["n_skipped"] == 3  # the first step of each of two epochs, and the infinite loss
    messages = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert messages[0] == messages[1]
    assert "2 consecutive steps (training.max_skipped_steps is 1)" in messages[0]
    assert "Pixels or features not finite: photo_" in messages[0]  # also in the process with finite photos
    lines = [path.read_text().splitlines() for path in tmp_path.rglob("skipped_steps.jsonl")]
    assert sorted(map(len, lines)) == [2, 3]  # one process writes
    assert all(len(json.loads(line)["not_finite"]) <= 1 for run in lines for line in run)
