"""docs/tutorial.md runs as it stands, on smaller photos and a smaller network."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from fixtures.config import CHECKOUT, TINY_MODEL

TUTORIAL = CHECKOUT / "docs" / "tutorial.md"
WRAPPER = """#!{python}
import sys
from roadwork.cli import main
arguments = sys.argv[1:]
if arguments[0] in ("split", "preflight", "train"):
    arguments += {overrides!r}
elif arguments[0] == "demo-data":
    arguments += ["--images", "240", "--size", "160x120"]
main(arguments)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", TUTORIAL.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def put_roadwork_on_path(folder: Path) -> dict[str, str]:
    """The environment in which `roadwork` is this checkout's, with settings for speed."""
    folder.mkdir()
    command = folder / "roadwork"
    command.write_text(WRAPPER.format(python=sys.executable, overrides=[*TINY_MODEL, "training.epochs=2"]))
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(CHECKOUT)}


def run_block(text: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a block in a process group of its own, and ends what it leaves in the background."""
    out, err = folder / "stdout.txt", folder / "stderr.txt"
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            env=environment,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=300)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(text, code, out.read_text(), err.read_text())


@pytest.mark.slow  # .ci/run runs it
@pytest.mark.timeout(900)
def test_tutorial_runs(tmp_path):
    environment = put_roadwork_on_path(tmp_path / "bin")
    port = str(free_port())
    shown = []
    for block in read_blocks():
        text = block.replace("8000", port)
        done = run_block(text, tmp_path, environment)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        shown.append(done.stdout)
    assert len(shown) == 9
    assert "filename" in shown[0]
    run = tmp_path / "outputs" / "tutorial" / "latest"
    assert {"results.json", "calibration.json", "predictions.parquet"} <= {path.name for path in run.iterdir()}
    assert len(json.loads((tmp_path / "predictions.geojson").read_text())["features"]) == 240
    assert json.loads(shown[-1][shown[-1].index('{"predictions"') :])["predictions"][0]["label"] in ("None", "Roadwork")
