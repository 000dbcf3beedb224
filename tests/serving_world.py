"""A real server process, and photos good and hostile, for tests of the service."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fixtures.config import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "scripts"))
from hostile_photos import FORM, encoded, form, hostile_requests, photo

__all__ = ["FORM", "encoded", "form", "photo"]
MEGAPIXELS = 2  # the limits of the servers under test
MAX_MB = 2
BERLIN = (52.52, 13.4)
HOSTILE = hostile_requests(MAX_MB * 1_000_000, max_images=32)


class ServerProcess(NamedTuple):
    """A running `roadwork serve`."""

    process: subprocess.Popen
    url: str
    announced: str


@contextmanager
def running_server(folder: Path, *options: str) -> Iterator[ServerProcess]:
    """`roadwork serve` in a process of its own, on a free port."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from roadwork.cli import main; main()", "serve", str(folder), "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        announced = "".join(process.stdout.readline() for _ in range(3))
        address = re.search(r"http://\S+:\d+", announced)
        assert address, announced + process.stderr.read()
        yield ServerProcess(process, address[0], announced)
    finally:
        process.kill()
        process.communicate()


def metric(text: str, name: str) -> float:
    """The value of a line of /metrics."""
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + " "))


async def until(condition: Callable[[], bool]) -> None:
    """Returns once it holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 -- what is waited for tells nobody
            await asyncio.sleep(0.005)
