"""A server under load with hostile requests: every response is right, and the queue is empty afterwards."""

import re
import subprocess
import sys

import pytest
from fixtures.config import CHECKOUT


@pytest.mark.slow
def test_server_is_healthy_after_hundreds_of_requests(model_folder):
    command = [sys.executable, CHECKOUT / "scripts" / "load_serve.py", model_folder, "--requests", "400"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = dict(re.findall(r"(\d+|left): (\d+)", re.search(r"Statuses[^│]*│([^│]*)", done.stdout)[1]))
    assert {"200", "400", "413", "415", "422", "left"} <= statuses.keys()
    assert "500" not in statuses
    assert sum(int(count) for count in statuses.values()) == 400
    assert "boundary" not in done.stderr  # messages that any client can cause are not logged
    assert re.search(r"Queue afterwards *│ 0 ", done.stdout)
