"""Per-device and global settings, and how the processes of a run find each other."""

import logging
import os

import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_only

from roadwork.core.devices import devices_here
from roadwork.core.errors import ConfigError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.runs.run import Run
from roadwork.settings import TrainingSettings
from roadwork.training.devices import build_lightning_trainer, describe_step
from roadwork.training.distributed import ProcessGroup, is_rank_zero, reduce_max, reduce_sum
from roadwork.training.trainers.factory import prepare_trainer

SLURM = {
    "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2", "SLURM_JOB_ID": "123456",
    "SLURM_JOB_NAME": "roadwork", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
    "SLURM_NODELIST": "gpu[7-8]",
}  # fmt: skip
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip
FOUR = TrainingSettings(accelerator="cpu", devices=2, num_nodes=2)


@pytest.fixture(autouse=True)
def _rank_zero_afterwards():
    """Restores the logging that processes other than rank zero turn off, and Lightning's rank."""
    logger = logging.getLogger("roadwork")
    level = logger.level
    yield
    logger.setLevel(level)
    rank_zero_only.rank = 0


@pytest.mark.parametrize(("variables", "environment"), [(SLURM, SLURMEnvironment), (TORCHRUN, TorchElasticEnvironment)])
def test_slurm_and_torchrun_are_recognised_by_their_variables(variables, environment, monkeypatch, tmp_path):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    trainer = build_lightning_trainer(FOUR, [], tmp_path, logger=False, enable_checkpointing=False)
    assert isinstance(trainer.strategy, DDPStrategy)
    assert isinstance(trainer.strategy.cluster_environment, environment)
    assert (trainer.global_rank, trainer.local_rank, trainer.node_rank, trainer.world_size) == (3, 1, 1, 4)
    # Rank zero's dry run uses a single device.
    alone = build_lightning_trainer(FOUR, [], tmp_path, alone=True, logger=False, enable_checkpointing=False)
    assert isinstance(alone.strategy, SingleDeviceStrategy)
    assert alone.world_size == 1


def test_externally_started_processes_join_at_once(monkeypatch):
    met = []
    monkeypatch.setattr(ProcessGroup, "_join", lambda group: met.append(group.rank))
    ProcessGroup(FOUR)
    assert met == []  # the first one has not started the others yet
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert ProcessGroup(FOUR).is_rank_zero is False
    assert met == [3]
    assert not logging.getLogger("roadwork").isEnabledFor(logging.WARNING)


def test_single_process_starts_no_process_group(monkeypatch):
    monkeypatch.setattr(
        "roadwork.training.distributed.start_local_processes", lambda *_: pytest.fail("a process was started")
    )
    group = ProcessGroup(TrainingSettings(accelerator="cpu"))
    assert (group.rank, group.world_size, group.is_rank_zero, is_rank_zero()) == (0, 1, True, True)
    with group.rank_zero_first():
        assert group.broadcast({"a": 1}) == {"a": 1}
    counts = torch.arange(3)
    assert reduce_sum(counts, 1) is counts
    trainer = build_lightning_trainer(TrainingSettings(accelerator="cpu"), [], ".", logger=False)
    assert reduce_max(trainer, True, 15) == [1, 15]


@pytest.mark.parametrize(("devices", "expected"), [(1, 1), (3, 3), ("auto", 1)])
def test_auto_devices_is_one_on_a_cpu(devices, expected):
    assert devices_here(devices, "cpu") == expected


@pytest.mark.parametrize(
    ("settings", "processes", "expected"),
    [
        ({}, 1, "32 images a step"),
        ({"accumulate": 3}, 1, "32 images in each of 3 batches: 96 a step"),
        ({}, 2, "32 images on each of 2 devices: 64 a step"),
        (
            {"accumulate": 2, "num_nodes": 2},
            8,
            "32 images in each of 2 batches on each of 8 devices, on 2 machines: 512 a step",
        ),
    ],
)
def test_step_size_is_logged(settings, processes, expected):
    expected += "; learning rate 0.003, not scaled with it."
    assert describe_step(TrainingSettings(lr=0.003, **settings), 32, processes) == expected


def test_memory_and_cores_are_divided_among_local_devices(tiny_config, monkeypatch):
    data = NATIXDataModule(tiny_config())
    data.setup("fit")
    needed = 10 * 3 * 32**2
    monkeypatch.setattr("roadwork.data.datamodule.available_bytes", lambda: int(needed / 0.25))
    monkeypatch.setattr("roadwork.data.datamodule.cpu_count", lambda: 8)
    store = data.datasets["val_calib"].store  # from files
    assert (data._fits_ram(10), data._choose_workers(store)) == (True, 8)
    data.settings.training.devices = 2
    assert (data._fits_ram(10), data._choose_workers(store)) == (False, 4)


def test_resume_with_another_number_of_devices_is_an_error(tiny_config):
    data = NATIXDataModule(tiny_config())
    run = prepare_trainer(data).fit(data)
    Run(run).write_manifest(processes=2)  # as if it had been
    data = NATIXDataModule(tiny_config("training.epochs=2"))
    with pytest.raises(ConfigError, match=r"2 devices.*\b1\b.*training\.devices"):
        prepare_trainer(data).fit(data, resume_from=run)


def test_missing_accelerator_is_an_error():
    with pytest.raises(ConfigError, match=r"training.accelerator='gpu' with training.devices=2"):
        ProcessGroup(TrainingSettings(accelerator="gpu", devices=2))


def test_environment_is_restored():
    assert "ROADWORK_STARTED_BY" not in os.environ
