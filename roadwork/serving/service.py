"""From an uploaded file to its answer: decoded by a few threads, computed in batches by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from typing import TypeVar

import joblib
import torch
from starlette.datastructures import UploadFile
from torch import Tensor

from roadwork.errors import DataError
from roadwork.inference.detector import Detector, Prediction
from roadwork.serving import refusals
from roadwork.serving.answers import PhotoAnswer, photo_answer
from roadwork.serving.batching import Batcher
from roadwork.serving.limits import MEGAPIXEL, Limits
from roadwork.serving.look import Looker
from roadwork.serving.metrics import Metrics
from roadwork.serving.photos import PhotoHeader, read_header
from roadwork.serving.places import Places

T = TypeVar("T")
_MAX_DECODERS = 4
# Photos above are decoded one at a time: a PNG takes several times its pixels of memory on the way.
_LARGE = 16 * MEGAPIXEL
STARTING, READY, SHUTTING_DOWN = "starting", "ready", "shutting_down"


class Service:
    """A detector that answers many clients.

    Attributes:
        detector: that answers.
        limits: of what is taken.
        places: the bounded queue.
        metrics: what was counted.
        state: `starting`, `ready` or `shutting_down`.
    """

    def __init__(self, detector: Detector, limits: Limits, looker: Looker) -> None:
        self.detector = detector
        self.limits = limits
        self.places = Places(limits)
        self.metrics = Metrics(lambda: self.places.taken)
        self.state = STARTING
        self._looker = looker
        n_decoders = min(_MAX_DECODERS, joblib.cpu_count())
        self._decoders = ThreadPoolExecutor(n_decoders, "decoder", _use_threads, (1,))
        self._network = ThreadPoolExecutor(1, "network", _use_threads, (torch.get_num_threads(),))
        self._batcher = Batcher(self._answer, self._network, limits, self.metrics.count_batch)
        self._free_decoders = asyncio.Semaphore(n_decoders)
        self._large = asyncio.Semaphore(1)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Answers photos within it; ready once the network has answered one."""
        size = self.detector.preprocessing.size
        batches = asyncio.create_task(self._batcher.run())
        try:
            await self._batcher.answer(torch.zeros(3, size, size, dtype=torch.uint8))
            self.state = READY
            yield
        finally:
            self.state = SHUTTING_DOWN
            batches.cancel()
            for threads in (self._decoders, self._network):
                threads.shutdown(wait=False, cancel_futures=True)

    async def predict(self, file: UploadFile) -> PhotoAnswer:
        """The answer for a file.

        Raises:
            Refusal: it is no photo that can be answered.
        """
        try:
            header, pixels, _ = await self._decode(file)
        except refusals.Refusal as refusal:
            self.metrics.count_photo(refusal.code)
            raise
        prediction = await self._batcher.answer(pixels)
        self.metrics.count_photo("answered")
        return photo_answer(file, prediction, header.camera)

    async def look(self, file: UploadFile) -> bytes:
        """A PNG of the photo and where the network looked.

        Raises:
            Refusal: it is no photo that can be answered.
        """
        _, pixels, data = await self._decode(file)
        look = await _run(self._network, lambda: self._looker.look(pixels))
        async with self._free_decoders:
            return await _run(self._decoders, lambda: self._looker.draw(data, look))

    async def _decode(self, file: UploadFile) -> tuple[PhotoHeader, Tensor, bytes]:
        """Header, pixels (3, S, S) uint8 and bytes of a file, once a thread is free: till then it waits on disk."""
        async with self._free_decoders:
            data = await file.read()
            header = await _run(self._decoders, lambda: read_header(data, self.limits))
            async with self._large if header.n_pixels > _LARGE else nullcontext():
                return header, await _run(self._decoders, lambda: self._read(data)), data

    def _read(self, data: bytes) -> Tensor:
        try:
            return self.detector.read(data)
        except DataError as error:
            raise refusals.damaged_photo(str(error.__cause__)) from error

    def _answer(self, pixels: Tensor) -> list[Prediction]:
        detector = self.detector
        return detector.judge(detector.probabilities(detector.logits(pixels)))


async def _run(threads: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, function)


def _use_threads(count: int) -> None:
    """How many threads torch may use on behalf of this one: it counts apart for each that calls it.

    The decoders work side by side already, so each gets one; the network gets them all.
    """
    torch.get_num_threads()  # its first use would undo what is set before
    torch.set_num_threads(count)
