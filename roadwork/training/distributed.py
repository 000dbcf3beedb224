"""Processes that train one network together: launch, rank zero first, broadcast, reduce."""

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

from roadwork.core.errors import ConfigError, MachineError
from roadwork.settings import TrainingSettings
from roadwork.training.devices import device_arguments

logger = logging.getLogger(__name__)


# What a process has to end by itself, after another one has failed: it may wait for that one without an end.
_GRACE_SECONDS = 15

# Names the process whose end is to be that of those it has started.
_STARTER = "ROADWORK_STARTED_BY"
T = TypeVar("T")

# How long processes wait while one of them hashes photos or computes features. One that dies is noticed at once.
_PATIENCE = timedelta(days=1)


def start_others(environment: ClusterEnvironment, n_here: int, n_processes: int) -> None:
    """Starts this machine's other processes with the command of this one.

    As Lightning's launcher does, which would end this process by SIGKILL soon after another one has failed, whatever it
    was about to say.
    """
    os.environ |= {
        "MASTER_ADDR": environment.main_address,
        "MASTER_PORT": str(environment.main_port),
        "NODE_RANK": str(environment.node_rank()),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(n_processes),
        _STARTER: str(os.getpid()),
    }
    main = sys.modules["__main__"].__spec__
    command = [
        sys.executable,
        *([str(Path(sys.argv[0]).absolute())] if main is None else ["-m", main.name]),
        *sys.argv[1:],
    ]
    started = [
        subprocess.Popen(command, env=os.environ | {"LOCAL_RANK": str(number)})  # noqa: S603 -- the user's own command
        for number in range(1, n_here)
    ]
    threading.Thread(target=_end_with_any, args=(started,), daemon=True, name="started-watch").start()


def _end_with_any(started: list[subprocess.Popen[bytes]]) -> None:
    """Ends this process where one that it started has failed, and no error of its own has done so since."""
    while not any(process.poll() for process in started):
        if all(process.returncode == 0 for process in started):
            return
        time.sleep(1)
    time.sleep(_GRACE_SECONDS)
    logger.error("Another process of this run has failed; its own message says why.")
    for process in started:
        process.kill()
    os._exit(1)


def end_with_starter() -> None:
    """Ends this process when the one that started it ends: it may hang in a collective that nobody joins."""
    starter = int(os.environ.get(_STARTER, "0"))
    if starter != os.getppid():
        return

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="starter-watch").start()


class Team:
    """The processes that train one network together, one a device; this is one of them.

    torchrun and SLURM start all of them, and they meet here at once. Else the first one starts the others of its
    machine, with its own command, when it first has something to tell them; so whatever it did before is done.

    Attributes:
        rank: 0 is the first: it alone writes the run's folder and talks.
        size: number of processes; one alone is a team too.
        rank_here: likewise among those of its machine.

    Args:
        training: how many devices and machines.

    Raises:
        ConfigError: Lightning cannot have these devices.
    """

    def __init__(self, training: TrainingSettings) -> None:
        unused = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        arguments: dict[str, Any] = device_arguments(training) | dict.fromkeys(unused, False)
        try:
            self._trainer = L.Trainer(**arguments)
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise ConfigError(
                f"Lightning does not take training.accelerator={training.accelerator!r} with "
                f"training.devices={training.devices!r} and training.num_nodes={training.num_nodes} here: {error}"
            ) from error
        self.rank, self.size = self._trainer.global_rank, self._trainer.world_size
        self.rank_here = self._trainer.local_rank
        if not self.is_first:
            logging.getLogger("roadwork").setLevel(logging.ERROR)
        if self.size > 1 and self._trainer.strategy.cluster_environment.creates_processes_externally:  # type: ignore[attr-defined]  # DDPStrategy has it
            end_with_starter()
            self._meet()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, value: T) -> T:
        """The first process's value, in every process; what the others give does not count.

        Raises:
            MachineError: a process has ended.
        """
        if self.size == 1:
            return value
        self._meet()
        box = [value]
        with _noticing_the_end_of_others():
            dist.broadcast_object_list(box, src=0, group=_waiting_group())
        return box[0]

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Runs its block in the first process, then in the first of each other machine, then in the rest.

        What the first one makes and keeps (hashes, features, demo data), the others then find.
        """
        turn = 0 if self.is_first else 1 if self.rank_here == 0 else 2
        for _ in range(turn):
            self._wait()
        yield
        for _ in range(turn, 2):
            self._wait()

    def _wait(self) -> None:
        if self.size > 1:
            self._meet()
            with _noticing_the_end_of_others():
                dist.barrier(group=_waiting_group())

    def _meet(self) -> None:
        if dist.is_initialized():
            return
        strategy = cast("DDPStrategy", self._trainer.strategy)
        environment = cast("ClusterEnvironment", strategy.cluster_environment)
        if not environment.creates_processes_externally:
            start_others(environment, strategy.num_processes, self.size)
        strategy.setup_environment()


def is_first_process() -> bool:
    """Whether this process is the first of its team, once they have met; one alone always is."""
    return not dist.is_initialized() or dist.get_rank() == 0


def sum_of_all(tensor: Tensor, n_processes: int) -> Tensor:
    """The sum over the processes of a trainer, on the CPU; `tensor` stays as it is. All of them have to call it."""
    if n_processes == 1:  # also the first one's dry run, while the others wait for it
        return tensor
    total = tensor.detach().cpu().clone()
    dist.all_reduce(total, group=_waiting_group())
    return total


def largest_of_all(trainer: L.Trainer, *numbers: int) -> list[int]:
    """Of each number the largest that any process gives. All of them have to call it."""
    if trainer.world_size == 1:
        return list(numbers)
    together = trainer.strategy.reduce(torch.tensor(numbers, device=trainer.strategy.root_device), reduce_op="max")
    largest: list[int] = together.tolist()
    return largest


def raise_if_others_ended(error: RuntimeError) -> None:
    """Raises MachineError where the error is what is left of a process that trained together with this one."""
    if dist.is_initialized() and (isinstance(error, dist.DistError) or "gloo" in str(error)):
        raise _others_ended() from error


def _others_ended() -> MachineError:
    return MachineError(
        "Another process of this run has ended; its own message says why. Go on with --resume once it is mended."
    )


@cache
def _waiting_group() -> dist.ProcessGroup:
    """One over CPUs: its members may wait for hours, where those of NCCL would be ended for it."""
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=_PATIENCE)
    return group


@contextmanager
def _noticing_the_end_of_others() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _others_ended() from error
