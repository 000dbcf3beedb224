"""`roadwork train` on two CPU processes, started by itself or from outside."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from fixtures.config import CHECKOUT, TINY_MODEL

TRAIN = str(CHECKOUT / "scripts" / "train.py")
# Under load a start takes a minute.
PATIENCE = 400


def start(tmp_path, demo_root, *overrides, launcher=(sys.executable, TRAIN)):
    command = [
        *launcher, "--config", str(CHECKOUT / "configs" / "config.yaml"), *TINY_MODEL, f"data.root={demo_root}",
        f"output_dir={tmp_path}", "experiment=two", "training.accelerator=cpu", "training.devices=2",
        "data.gps_sampling.enabled=false", *overrides,
    ]  # fmt: skip
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TERM": "dumb"},
    )


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_one_run(tmp_path, out, err, epochs):
    runs = [path for path in (tmp_path / "two").iterdir() if not path.is_symlink()]
    assert len(runs) == 1
    assert [line["epoch"] for line in lines_of(runs[0] / "metrics.jsonl")] == list(range(epochs))
    assert out.count("checks passed.") == 1
    assert out.count("Best val_select MCC") == 1
    assert err.count("2 devices: 32 a step") == 1
    assert err.count(f"Epoch {epochs} of") == 1
    assert json.loads((runs[0] / "manifest.json").read_text())["processes"] == 2
    return runs[0]


@pytest.mark.slow
def test_command_starts_processes_and_resumes_after_a_signal(tmp_path, demo_root):
    stopped = start(tmp_path, demo_root, "training.epochs=500", "training.patience=0")
    metrics = tmp_path / "two" / "latest" / "metrics.jsonl"
    deadline = time.monotonic() + PATIENCE
    while not (metrics.is_file() and metrics.read_text()) and time.monotonic() < deadline and stopped.poll() is None:
        time.sleep(0.2)
    stopped.send_signal(signal.SIGTERM)  # to the first process alone
    out, err = stopped.communicate(timeout=PATIENCE)
    assert stopped.returncode == 143, err
    assert err.count("is saved") == 1, err
    done = len(lines_of(metrics)) + 1
    resumed = start(tmp_path, demo_root, f"training.epochs={done}", "training.patience=0", "--resume")
    out, err = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0, err
    assert_one_run(tmp_path, out, err, done)


@pytest.mark.slow
def test_by_torchrun(tmp_path, demo_root):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", TRAIN)
    process = start(tmp_path, demo_root, "training.epochs=1", "data.dataloader.batch_size=auto", launcher=launcher)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert len(list((tmp_path / "two" / "latest" / "checkpoints").glob("*.ckpt"))) >= 2
    assert out.count("Best val_select MCC") == 1


@pytest.mark.slow
def test_all_processes_end_when_one_dies(tmp_path, demo_root):
    process = start(tmp_path, demo_root, "training.epochs=500", "training.patience=0")
    metrics = tmp_path / "two" / "latest" / "metrics.jsonl"
    deadline = time.monotonic() + PATIENCE
    while not (metrics.is_file() and metrics.read_text()) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "train.py"], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, err
    assert "Another process" in err
