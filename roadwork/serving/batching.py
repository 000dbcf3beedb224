"""Photos of all clients, gathered into batches for the one thread that computes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from torch import Tensor

from roadwork.inference.detector import Prediction
from roadwork.serving.limits import Limits

Answer = Callable[[Tensor], list[Prediction]]


@dataclass(frozen=True)
class _Waiting:
    """A photo (3, S, S) uint8, when it came by the loop's clock, and who waits for its answer."""

    pixels: Tensor
    came: float
    answer: asyncio.Future[Prediction]


class Batcher:
    """Gathers photos until a batch is full, or its first photo has waited long enough.

    While the network computes, photos gather anyway: under load no one waits for the clock.
    """

    def __init__(self, answer: Answer, thread: Executor, limits: Limits, on_batch: Callable[[int], None]) -> None:
        """Takes what it works with.

        Args:
            answer: of (B, 3, S, S) uint8, in order.
            thread: where `answer` runs; of one thread, so that batches follow one another.
            limits: `max_batch` and `max_wait_ms`.
            on_batch: is told the size of each batch.
        """
        self._answer = answer
        self._thread = thread
        self._limits = limits
        self._on_batch = on_batch
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()  # bounded by Places, before anything is decoded

    async def answer(self, pixels: Tensor) -> Prediction:
        """The answer for one photo (3, S, S) uint8. What `answer` raised for its batch is raised here."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(pixels, loop.time(), loop.create_future())
        self._queue.put_nowait(waiting)
        return await waiting.answer

    async def run(self) -> None:
        """Answers batch after batch, until it is cancelled."""
        while True:
            batch = [waiting for waiting in await self._gather() if not waiting.answer.done()]  # or who asked has left
            if batch:
                self._on_batch(len(batch))
                await self._answer_batch(batch)

    async def _gather(self) -> list[_Waiting]:
        batch = [await self._queue.get()]
        latest = batch[0].came + self._limits.max_wait_ms / 1000
        while len(batch) < self._limits.max_batch:
            try:
                async with asyncio.timeout_at(None if not self._queue.empty() else latest):
                    batch.append(await self._queue.get())
            except TimeoutError:
                break
        return batch

    async def _answer_batch(self, batch: list[_Waiting]) -> None:
        pixels = torch.stack([waiting.pixels for waiting in batch])
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, pixels)
        except Exception as error:  # noqa: BLE001 -- it belongs to those who wait; the next batch may be answered
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)
