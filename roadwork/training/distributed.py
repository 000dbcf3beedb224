"""Distributed training: start the processes, run rank zero first, broadcast, reduce."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from roadwork.core.devices import devices_here
from roadwork.core.errors import ConfigError, MachineError
from roadwork.settings import TrainingSettings
from roadwork.training.devices import device_arguments

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long the starter waits for its own process to end by itself, once another one has failed.
_GRACE_SECONDS = 15

# Environment variable with the process id of the process that started this one.
_STARTER = "ROADWORK_STARTED_BY"

# How long processes wait while rank zero hashes photos or computes features. One that dies is noticed at once.
_WAIT = timedelta(days=1)


class ProcessGroup:
    """The processes that train one network together, one per device; this process is one of them.

    torchrun and SLURM start all processes, which then join here at once. Otherwise rank zero starts the others of its
    machine, with its own command, when it first has something to broadcast; so they find what it made before.

    Attributes:
        rank: only rank 0 writes the run's folder and logs.
        world_size: number of processes; 1 without distributed training.
        local_rank: rank among the processes of this machine.

    Args:
        training: how many devices and machines.

    Raises:
        ConfigError: Lightning cannot use these devices.
    """

    def __init__(self, training: TrainingSettings) -> None:
        self.rank, self.world_size, self.local_rank = 0, 1, 0
        self._strategy: DDPStrategy | None = None
        if devices_here(training.devices, training.accelerator) * training.num_nodes == 1:
            return
        unused = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        arguments: dict[str, Any] = device_arguments(training) | dict.fromkeys(unused, False)
        try:
            trainer = L.Trainer(**arguments)  # it knows the cluster environments
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise ConfigError(
                f"Lightning does not take training.accelerator={training.accelerator!r} with "
                f"training.devices={training.devices!r} and training.num_nodes={training.num_nodes} here: {error}"
            ) from error
        self.rank, self.world_size, self.local_rank = trainer.global_rank, trainer.world_size, trainer.local_rank
        self._strategy = cast("DDPStrategy", trainer.strategy)
        if not self.is_rank_zero:
            logging.getLogger("roadwork").setLevel(logging.ERROR)
        if cast("ClusterEnvironment", self._strategy.cluster_environment).creates_processes_externally:
            exit_with_starter()
            self._join()

    @property
    def is_rank_zero(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """Rank zero's value, in every process; the values that the others pass are ignored.

        Raises:
            MachineError: a process has ended.
        """
        if self.world_size == 1:
            return value
        self._join()
        box = [value]
        with _detect_failed_peers():
            dist.broadcast_object_list(box, src=0, group=_gloo_group())
        return box[0]

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """Runs its block in rank zero, then in the first process of each other machine, then in the rest.

        What the first one makes and keeps (hashes, features, demo data), the others find.
        """
        turn = 0 if self.is_rank_zero else 1 if self.local_rank == 0 else 2
        for _ in range(turn):
            self._barrier()
        yield
        for _ in range(turn, 2):
            self._barrier()

    def _barrier(self) -> None:
        if self.world_size > 1:
            self._join()
            with _detect_failed_peers():
                dist.barrier(group=_gloo_group())

    def _join(self) -> None:
        if dist.is_initialized() or self._strategy is None:
            return
        environment = cast("ClusterEnvironment", self._strategy.cluster_environment)
        if not environment.creates_processes_externally:
            start_local_processes(environment, self._strategy.num_processes, self.world_size)
        self._strategy.setup_environment()


def is_rank_zero() -> bool:
    """Whether this process is rank zero of the joined processes; a single process always is."""
    return not dist.is_initialized() or dist.get_rank() == 0


def reduce_sum(tensor: Tensor, world_size: int) -> Tensor:
    """The sum over a trainer's processes, on the CPU; all must call it. `tensor` itself does not change."""
    if world_size == 1:  # also rank zero's dry run, while the others wait for it
        return tensor
    total = tensor.detach().cpu().clone()
    dist.all_reduce(total, group=_gloo_group())
    return total


def gather(trainer: L.Trainer, own: list[T]) -> list[T]:
    """The lists of a trainer's processes, concatenated; all must call it."""
    if trainer.world_size == 1:
        return own
    everyone: list[list[T]] = [[] for _ in range(trainer.world_size)]
    dist.all_gather_object(everyone, own)
    return [each for rank in everyone for each in rank]


def reduce_max(trainer: L.Trainer, *numbers: int) -> list[int]:
    """The largest value of each number over a trainer's processes; all must call it."""
    if trainer.world_size == 1:
        return list(numbers)
    together = trainer.strategy.reduce(torch.tensor(numbers, device=trainer.strategy.root_device), reduce_op="max")
    largest: list[int] = together.tolist()
    return largest


def raise_if_peer_failed(error: RuntimeError) -> None:
    """Raises MachineError if the error comes from the end of another process of this run."""
    if dist.is_initialized() and (isinstance(error, dist.DistError) or "gloo" in str(error)):
        raise _peer_failed() from error


def _peer_failed() -> MachineError:
    return MachineError(
        "Another process of this run has ended; its own message says why. Fix that, then continue with --resume."
    )


@contextmanager
def _detect_failed_peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _peer_failed() from error


@cache
def _gloo_group() -> dist.ProcessGroup:
    """A process group over CPUs, whose members may wait for hours; NCCL would end them for it."""
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=_WAIT)
    return group


def start_local_processes(environment: ClusterEnvironment, n_local: int, world_size: int) -> None:
    """Starts this machine's other processes with the command of this one.

    Lightning's launcher does the same, but ends this process by SIGKILL soon after another one has failed, before it
    can log why.
    """
    os.environ |= {
        "MASTER_ADDR": environment.main_address,
        "MASTER_PORT": str(environment.main_port),
        "NODE_RANK": str(environment.node_rank()),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(world_size),
        _STARTER: str(os.getpid()),
    }
    main = sys.modules["__main__"].__spec__
    command = [
        sys.executable,
        *([str(Path(sys.argv[0]).absolute())] if main is None else ["-m", main.name]),
        *sys.argv[1:],
    ]
    started = [
        subprocess.Popen(command, env=os.environ | {"LOCAL_RANK": str(rank)})  # noqa: S603 -- the user's own command
        for rank in range(1, n_local)
    ]
    threading.Thread(target=_exit_with_started, args=(started,), daemon=True, name="started-watch").start()


def _exit_with_started(started: list[subprocess.Popen[bytes]]) -> None:
    """Ends this process some seconds after one that it started has failed, unless its own error ends it first."""
    while not any(process.poll() for process in started):
        if all(process.returncode == 0 for process in started):
            return
        time.sleep(1)
    time.sleep(_GRACE_SECONDS)
    logger.error("Another process of this run has failed; its own message says why.")
    for process in started:
        process.kill()
    os._exit(1)


def exit_with_starter() -> None:
    """Ends this process when its starter ends; otherwise it could hang in a collective call that nobody joins."""
    starter = int(os.environ.get(_STARTER, "0"))
    if starter != os.getppid():
        return

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="starter-watch").start()
