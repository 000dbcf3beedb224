"""The processes of one machine: the first starts the others, and none outlives a failure of another."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

logger = logging.getLogger(__name__)

# What a process has to end by itself, after another one has failed: it may wait for that one without an end.
_GRACE_SECONDS = 15
# Names the process whose end is to be that of those it has started.
_STARTER = "ROADWORK_STARTED_BY"


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
