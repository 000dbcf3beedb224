"""An interrupted run prints its resume command, which continues it in the same folder."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from fixtures.config import TINY_MODEL
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf

from roadwork.cli.main import main
from roadwork.core.errors import ConfigError
from roadwork.runs.lock import is_locked, run_lock
from roadwork.training.trainers.base_trainer import BaseTrainer
from roadwork.training.trainers.resume import check_same_configuration

STOPPED_BEFORE = 12  # of 18 steps: the second epoch has begun


class Watch(Callback):
    """Records each step's (epoch, batch), and sends a signal before a given step."""

    def __init__(self, steps, n):
        self.steps = steps
        self.n = n

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        assert is_locked(Path(trainer.default_root_dir))
        self.steps.append((trainer.current_epoch, batch_idx))
        if len(self.steps) == self.n:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def roadwork(monkeypatch, tmp_path, demo_root, capsys):
    """Runs a command in an empty folder; returns its exit code, standard error and trained steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    own_callbacks = BaseTrainer._run_callbacks

    def run(*arguments, stop_before=None):
        steps = []
        monkeypatch.setattr(
            BaseTrainer, "_run_callbacks", lambda self: [*own_callbacks(self), Watch(steps, stop_before)]
        )
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return ended.value.code, capsys.readouterr().err, steps

    return run


def begin(roadwork, demo_root, *overrides):
    """A run of two epochs that was stopped in the second."""
    return roadwork(
        *("train", *TINY_MODEL, f"data.root={demo_root}", "training.epochs=2", "experiment=night/a", *overrides),
        stop_before=STOPPED_BEFORE,
    )


def test_interrupted_run_prints_its_resume_command_and_resumes(roadwork, demo_root, tmp_path):
    code, output, steps = begin(roadwork, demo_root)
    (folder,) = (path for path in (tmp_path / "outputs" / "night" / "a").iterdir() if not path.is_symlink())
    assert code == 143
    assert f"`roadwork resume night/a/{folder.name}`" in output
    config = OmegaConf.load(folder / "config.yaml")

    refused = roadwork("resume", "night/a", "training.lr=0.5")
    assert refused[0] == 2
    assert "training.lr was 0.001, now 0.5" in refused[1]
    assert refused[2] == []
    with run_lock(folder):
        assert "another process" in roadwork("resume", "night/a")[1]

    code, output, more = roadwork("resume", "night/a", "data.dataloader.num_workers=0")
    assert code == 0, output
    all_steps = [(epoch, batch) for epoch in range(2) for batch in range(9)]
    assert steps + more == all_steps
    assert len(steps) == STOPPED_BEFORE
    assert [path.name for path in folder.parent.iterdir() if not path.is_symlink()] == [folder.name]
    assert [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [0, 1]
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == len(all_steps)
    config.data.dataloader.num_workers = 0
    assert OmegaConf.load(folder / "config.yaml") == config

    code, output, more = roadwork("resume", folder.name[:4])
    assert (code, more) == (1, [])
    assert "There is no run" in output
    assert f"night/a/{folder.name}" in output or "lists its 1 runs" in output
    code, output, more = roadwork("resume", "night/a")
    assert (code, more) == (2, [])
    assert "2 of 2 epochs" in output


def test_run_of_an_older_version_gets_defaults_of_new_keys(tiny_config, tmp_path):
    now, path = tiny_config(), tmp_path / "config.yaml"
    older = OmegaConf.create(OmegaConf.to_container(now, resolve=True))
    del older.model["head_dropout"], older["tracking"]
    OmegaConf.save(older, path)
    check_same_configuration(tmp_path, now)
    older.training.lr = 0.5
    OmegaConf.save(older, path)
    with pytest.raises(ConfigError, match=r"training\.lr.*0\.5.*0\.001"):
        check_same_configuration(tmp_path, now)
