"""Load test of `roadwork serve`: many clients send valid and hostile requests. Prints a table of the results.

    python scripts/load_serve.py model --requests 5000

It starts a server with small limits, so that requests can exceed them. The exit code is 1 if a prediction or status was
wrong, a request got no response, the queue was not empty at the end, memory grew by more than `--max-growth`, or the
server did not stop with code 0.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from hostile_photos import FORM, Hostile, form, hostile_requests, photo
from rich.console import Console
from rich.table import Table

MAX_MB, MAX_IMAGES, QUEUE = 2, 8, 64
OPTIONS = (
    *("--port", "0", "--max-mb", str(MAX_MB), "--max-megapixels", "2"),
    *("--max-images", str(MAX_IMAGES), "--queue", str(QUEUE)),
)
N_PHOTOS = 32
TOLERANCE = 1e-6
# Requests in twenty of each kind; the rest send one photo. A leaving client disconnects within the body.
MANY, HOSTILE, LEAVING = 4, 6, 1


@dataclass
class Outcome:
    """Results of the requests."""

    statuses: Counter[int | str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # latencies of responses with status 200
    wrong: list[str] = field(default_factory=list)


class Load:
    """Clients of one server."""

    def __init__(self, url: str, n_clients: int, seed: int) -> None:
        self.url = url
        self.outcome = Outcome()
        self._n_clients = n_clients
        self._random = np.random.default_rng(seed)
        self._photos = [photo(number, size=(640, 480)) for number in range(N_PHOTOS)]
        self._hostile = list(hostile_requests(MAX_MB * 1_000_000, MAX_IMAGES).items())
        self._expected: list[float] = []

    async def run(self, n_requests: int) -> None:
        """Sends each photo alone for the expected predictions, then all requests concurrently."""
        limits = httpx.Limits(max_connections=self._n_clients)
        async with httpx.AsyncClient(base_url=self.url, limits=limits, timeout=120) as client:
            if not self._expected:
                self._expected = [(await _predict(client, [data]))[0] for data in self._photos]
            waiting = iter(self._random.integers(0, 20, n_requests).tolist())
            async with asyncio.TaskGroup() as group:
                for _ in range(self._n_clients):
                    group.create_task(self._send_all(client, waiting))

    async def _send_all(self, client: httpx.AsyncClient, waiting: object) -> None:
        for kind in waiting:  # shared by all clients
            try:
                if kind < LEAVING:
                    await self._leave()
                elif kind < LEAVING + HOSTILE:
                    await self._send_hostile(client, *self._hostile[self._random.integers(len(self._hostile))])
                else:
                    await self._send(client, int(self._random.integers(2, 6)) if kind < LEAVING + HOSTILE + MANY else 1)
            except httpx.HTTPError as error:
                self.outcome.statuses["no response"] += 1
                self.outcome.wrong.append(f"no response: {error!r}")

    async def _send(self, client: httpx.AsyncClient, n_photos: int) -> None:
        chosen = self._random.integers(0, N_PHOTOS, n_photos).tolist()
        started = time.perf_counter()
        body = form(*[self._photos[number] for number in chosen])
        response = await client.post("/predict", content=body, headers={"content-type": FORM})
        self.outcome.statuses[response.status_code] += 1
        if response.status_code == 429:  # allowed
            return
        if response.status_code != 200:
            self.outcome.wrong.append(f"{n_photos} photos: {response.status_code} {response.text}")
            return
        self.outcome.seconds.append(time.perf_counter() - started)
        answers = [answer["probability"] for answer in response.json()["predictions"]]
        if not np.allclose(answers, [self._expected[number] for number in chosen], rtol=0, atol=TOLERANCE):
            self.outcome.wrong.append(f"photos {chosen}: {answers}")

    async def _send_hostile(self, client: httpx.AsyncClient, name: str, hostile: Hostile) -> None:
        headers = {"content-type": hostile.content_type}
        response = await client.post("/predict", content=hostile.body, headers=headers)
        self.outcome.statuses[response.status_code] += 1
        if response.status_code not in (hostile.status, 429) or "Traceback" in response.text:
            self.outcome.wrong.append(f"{name}: {response.status_code} {response.text}")

    async def _leave(self) -> None:
        address = httpx.URL(self.url)
        _, writer = await asyncio.open_connection(address.host, address.port)
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\nContent-Length: 100000\r\n\r\n"
        writer.write(head.encode() + form(self._photos[0])[:5000])
        await writer.drain()
        writer.close()
        self.outcome.statuses["left"] += 1


async def _predict(client: httpx.AsyncClient, photos: list[bytes]) -> list[float]:
    response = await client.post("/predict", content=form(*photos), headers={"content-type": FORM})
    return [answer["probability"] for answer in response.raise_for_status().json()["predictions"]]


def main() -> int:
    """Runs the load test; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder from `roadwork export`")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-growth", type=float, default=64.0, help="allowed growth of memory, in megabytes")
    options = parser.parse_args()
    command = [sys.executable, "-c", "from roadwork.cli import main; main()", "serve", str(options.model), *OPTIONS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as server:  # noqa: S603 -- a fixed command
        try:
            announced = server.stdout.readline() if server.stdout else ""
            address = re.search(r"http://\S+:\d+", announced)
            if address is None:
                return 1  # the server has printed its error
            return _measure(address[0], server, options)
        finally:
            server.kill()


def _measure(url: str, server: subprocess.Popen[str], options: argparse.Namespace) -> int:
    load = Load(url, options.clients, options.seed)
    asyncio.run(load.run(max(200, options.requests // 10)))  # warm-up: memory settles after each kind of request
    before, _ = _memory_and_queue(url)
    load.outcome = outcome = Outcome(wrong=load.outcome.wrong)
    started = time.perf_counter()
    asyncio.run(load.run(options.requests))
    seconds = time.perf_counter() - started
    after, queue = _memory_and_queue(url)
    server.send_signal(signal.SIGTERM)
    status = server.wait(timeout=60)
    p50, p95, p99 = np.percentile(outcome.seconds, (50, 95, 99)) * 1000
    table = Table("Load", "", title=f"{options.requests} requests by {options.clients} clients")
    for name, text in {
        "Rate": f"{options.requests / seconds:.0f} requests/s",
        "Latency of 200": f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms",
        "Statuses": ", ".join(f"{status}: {count}" for status, count in sorted(outcome.statuses.items(), key=str)),
        "Wrong": str(len(outcome.wrong)),
        "Memory": f"{before:.0f} MB before, {after:.0f} MB after",
        "Queue afterwards": f"{queue:.0f}",
        "Exit after SIGTERM": str(status),
    }.items():
        table.add_row(name, text)
    console = Console(width=100)
    console.print(table)
    for wrong in outcome.wrong[:10]:
        console.print(f"Wrong: {wrong[:300]}", markup=False)
    passed = not outcome.wrong and queue == 0 and status == 0 and after - before <= options.max_growth
    return 0 if passed else 1


def _memory_and_queue(url: str) -> tuple[float, float]:
    """Resident memory in megabytes and photos in the queue, after the server has noticed disconnected clients."""
    deadline = time.monotonic() + 10
    while True:
        text = httpx.get(f"{url}/metrics").text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        queue = float(values["roadwork_queue_photos"])
        if queue == 0 or time.monotonic() > deadline:
            return float(values["process_resident_memory_bytes"]) / 1e6, queue
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
