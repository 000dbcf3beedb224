"""Decodes uploads, batches them, predicts, and counts."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import joblib
import numpy as np
import torch
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.datastructures import UploadFile
from torch import Tensor

from roadwork.core.errors import DataError
from roadwork.data.images import decode_short_side, to_network_input
from roadwork.detector.detector import Detector, Prediction
from roadwork.detector.networks import TorchNetwork
from roadwork.serve import errors
from roadwork.serve.admission import PhotoHeader, Places, read_header
from roadwork.serve.errors import MEGAPIXEL, Limits
from roadwork.serve.schemas import PhotoAnswer, photo_answer

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SHORT_SIDE = 480  # pixels of the picture
T = TypeVar("T")
_MAX_DECODERS = 4

# Photos above are decoded one at a time: a PNG takes several times its pixels of memory on the way.
_LARGE = 16 * MEGAPIXEL
STARTING, READY, SHUTTING_DOWN = "starting", "ready", "shutting_down"


class Metrics:
    """Counters of one service, as Prometheus reads them."""

    def __init__(self, taken: Callable[[], float]) -> None:
        """Counts from zero; `taken` gives the places that are taken now."""
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("roadwork_requests", "Requests answered.", ["path", "status"], registry=registry)
        self._seconds = Histogram(
            "roadwork_request_seconds",
            "From a request's headers to the end of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._photos = Counter(
            "roadwork_photos", "Photos by outcome: answered, or why not.", ["outcome"], registry=registry
        )
        self._batches = Histogram("roadwork_batch_photos", "Photos in a batch.", buckets=_BATCHES, registry=registry)
        queue = Gauge("roadwork_queue_photos", "Photos that are uploaded, decoded or answered now.", registry=registry)
        queue.set_function(taken)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """A request was answered; `path`: one of few."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_photo(self, outcome: str) -> None:
        """A photo was answered, or refused."""
        self._photos.labels(outcome).inc()

    def count_batch(self, size: int) -> None:
        """So many photos went through the network at once."""
        self._batches.observe(size)

    def render(self) -> bytes:
        """All of it, in Prometheus's text format."""
        text: bytes = generate_latest(self._registry)
        return text


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


class Looker:
    """Draws where a detector looked: by gradients, or, as ONNX has none, by covering the photo part by part."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def look(self, pixels: torch.Tensor) -> np.ndarray:
        """(h, w) in [0, 1]: how much each part of a photo (3, S, S) uint8 spoke for Roadwork. One thread at a time."""
        from roadwork.detector import saliency  # noqa: PLC0415 -- transformers, which takes seconds

        detector = self._detector
        normalised = to_network_input(pixels[None].to(detector.device), detector.preprocessing.statistics)
        if isinstance(detector.network, TorchNetwork):
            return saliency.look_map(detector.network.module, normalised)
        return saliency.occlusion_map(detector.network, normalised)

    @staticmethod
    def draw(data: bytes, look: np.ndarray) -> bytes:
        """A PNG of the encoded photo under what `look` gave for it, in the photo's own aspect.

        Raises:
            UnreadableImageError: as `decode_short_side`.
        """
        from roadwork.detector import saliency  # noqa: PLC0415

        drawn = saliency.overlay(decode_short_side(data, SHORT_SIDE), look)
        buffer = io.BytesIO()
        Image.fromarray(drawn).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


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
        except errors.Refusal as refusal:
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
            raise errors.damaged_photo(str(error.__cause__)) from error

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
