"""The service: decodes uploads, batches photos, predicts, and keeps metrics."""

from __future__ import annotations

import asyncio
import io
import math
from collections import deque
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
from roadwork.detector.familiarity import Familiarity, judge, photo_facts
from roadwork.detector.networks import TorchNetwork
from roadwork.serve import errors
from roadwork.serve.admission import AdmissionQueue, PhotoHeader, read_header
from roadwork.serve.errors import MEGAPIXEL, Limits
from roadwork.serve.schemas import PhotoAnswer, photo_answer

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SHORT_SIDE = 480  # of a saliency image, in pixels
T = TypeVar("T")
_MAX_DECODERS = 4

# Larger photos are decoded one at a time: decoding a PNG takes several times its pixels in memory.
_LARGE = 16 * MEGAPIXEL
FAMILIARITY_WINDOW = 256  # the latest photos of all clients
STARTING, READY, SHUTTING_DOWN = "starting", "ready", "shutting_down"


class FamiliarityWindow:
    """Features of the latest `FAMILIARITY_WINDOW` photos; the photos themselves are not kept."""

    def __init__(self, detector: Detector) -> None:
        self._reference = detector.reference
        self._latest: deque[tuple[np.ndarray | None, tuple[float, ...]]] = deque(maxlen=FAMILIARITY_WINDOW)

    def add(self, pixels: Tensor, features: Tensor | None) -> None:
        """Notes a batch of photos (B, 3, S, S) uint8 and their features (B, D)."""
        for row, photo in enumerate(pixels):
            facts = photo_facts(photo, (math.nan, math.nan))  # the photo's own size is not known here
            self._latest.append((None if features is None else features[row].numpy(), facts))

    def clear(self) -> None:
        """Forgets all photos."""
        self._latest.clear()

    def judge(self) -> Familiarity:
        """The verdict on these photos; takes up to a second."""
        latest = self._latest.copy()
        features = [values for values, _ in latest if values is not None]
        facts = np.array([facts for _, facts in latest])
        return judge(self._reference, np.stack(features) if features else None, facts)


class Metrics:
    """Prometheus metrics of one service."""

    def __init__(self, slots_in_use: Callable[[], float]) -> None:
        """Starts all counts at zero; `slots_in_use` gives the queue slots in use."""
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("roadwork_requests", "Finished requests.", ["path", "status"], registry=registry)
        self._seconds = Histogram(
            "roadwork_request_seconds",
            "Seconds from a request's headers to the end of its response.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._photos = Counter(
            "roadwork_photos", "Photos by outcome: answered, or an error code.", ["outcome"], registry=registry
        )
        self._batches = Histogram("roadwork_batch_photos", "Photos in a batch.", buckets=_BATCHES, registry=registry)
        queue = Gauge("roadwork_queue_photos", "Photos queued or in progress.", registry=registry)
        queue.set_function(slots_in_use)
        self._familiarity = Gauge(
            "roadwork_familiarity",
            "Distance of the latest photos to the training photos (d'), its limit, and the photos compared.",
            ["value"],
            registry=registry,
        )

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Counts a finished request; `path` must be one of few."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_photo(self, outcome: str) -> None:
        """Counts a photo by outcome: `answered`, or an error code."""
        self._photos.labels(outcome).inc()

    def count_batch(self, size: int) -> None:
        """Counts a batch of `size` photos."""
        self._batches.observe(size)

    def set_familiarity(self, found: Familiarity) -> None:
        """Sets the verdict on the latest photos; distance and limit are NaN if it is unknown."""
        for name in ("distance", "limit", "n"):
            value = getattr(found, name)
            self._familiarity.labels(name).set(math.nan if value is None else value)

    def render(self) -> bytes:
        """The metrics in Prometheus's text format."""
        text: bytes = generate_latest(self._registry)
        return text


Predict = Callable[[Tensor], list[Prediction]]


@dataclass(frozen=True)
class _Waiting:
    """A photo (3, S, S) uint8, its arrival time by the loop's clock, and the future of its prediction."""

    pixels: Tensor
    arrived: float
    future: asyncio.Future[Prediction]


class Batcher:
    """Collects photos until a batch is full, or its first photo has waited for `max_wait_ms`.

    Photos also collect while the network computes, so under load no photo waits for the timer.
    """

    def __init__(self, predict: Predict, thread: Executor, limits: Limits, on_batch: Callable[[int], None]) -> None:
        """Creates a batcher; `run` starts it.

        Args:
            predict: predicts (B, 3, S, S) uint8, in order.
            thread: the one thread where `predict` runs, batch after batch.
            limits: `max_batch` and `max_wait_ms`.
            on_batch: called with the size of each batch.
        """
        self._predict = predict
        self._thread = thread
        self._limits = limits
        self._on_batch = on_batch
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()  # bounded by AdmissionQueue before decoding

    async def predict(self, pixels: Tensor) -> Prediction:
        """The prediction for one photo (3, S, S) uint8; raises what its batch raised."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(pixels, loop.time(), loop.create_future())
        self._queue.put_nowait(waiting)
        return await waiting.future

    async def run(self) -> None:
        """Predicts batch after batch until cancelled."""
        while True:
            # Drops photos whose client has disconnected.
            batch = [waiting for waiting in await self._gather() if not waiting.future.done()]
            if batch:
                self._on_batch(len(batch))
                await self._predict_batch(batch)

    async def _gather(self) -> list[_Waiting]:
        batch = [await self._queue.get()]
        latest = batch[0].arrived + self._limits.max_wait_ms / 1000
        while len(batch) < self._limits.max_batch:
            try:
                async with asyncio.timeout_at(None if not self._queue.empty() else latest):
                    batch.append(await self._queue.get())
            except TimeoutError:
                break
        return batch

    async def _predict_batch(self, batch: list[_Waiting]) -> None:
        pixels = torch.stack([waiting.pixels for waiting in batch])
        try:
            predictions = await asyncio.get_running_loop().run_in_executor(self._thread, self._predict, pixels)
        except Exception as error:  # noqa: BLE001 -- the clients of this batch get it; the next batch may succeed
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            return
        for waiting, prediction in zip(batch, predictions, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(prediction)


class SaliencyRenderer:
    """Renders saliency maps: from gradients, or by occlusion for ONNX, which has no gradients."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def saliency(self, pixels: torch.Tensor) -> np.ndarray:
        """(h, w) in [0, 1]: evidence for Roadwork by part of a photo (3, S, S) uint8. One thread at a time."""
        from roadwork.detector import saliency  # noqa: PLC0415 -- transformers, which takes seconds

        detector = self._detector
        normalised = to_network_input(pixels[None].to(detector.device), detector.preprocessing.statistics)
        if isinstance(detector.network, TorchNetwork):
            return saliency.gradient_map(detector.network.module, normalised)
        return saliency.occlusion_map(detector.network, normalised)

    @staticmethod
    def draw(data: bytes, saliency_map: np.ndarray) -> bytes:
        """A PNG of the encoded photo under its saliency map, in the photo's own aspect ratio.

        Raises:
            UnreadableImageError: as `decode_short_side`.
        """
        from roadwork.detector import saliency  # noqa: PLC0415

        drawn = saliency.overlay(decode_short_side(data, SHORT_SIDE), saliency_map)
        buffer = io.BytesIO()
        Image.fromarray(drawn).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


class Service:
    """A detector that serves many clients.

    Attributes:
        detector: makes the predictions.
        limits: the limits of requests.
        queue: the bounded admission queue.
        metrics: the Prometheus metrics.
        state: `starting`, `ready` or `shutting_down`.
    """

    def __init__(self, detector: Detector, limits: Limits, renderer: SaliencyRenderer) -> None:
        self.detector = detector
        self.limits = limits
        self.queue = AdmissionQueue(limits)
        self.metrics = Metrics(lambda: self.queue.used)
        self.state = STARTING
        self._renderer = renderer
        n_decoders = min(_MAX_DECODERS, joblib.cpu_count())
        self._decoders = ThreadPoolExecutor(n_decoders, "decoder", _use_threads, (1,))
        self._network = ThreadPoolExecutor(1, "network", _use_threads, (torch.get_num_threads(),))
        self._batcher = Batcher(self._predict_pixels, self._network, limits, self.metrics.count_batch)
        self._free_decoders = asyncio.Semaphore(n_decoders)
        self._large = asyncio.Semaphore(1)
        self._window = FamiliarityWindow(detector)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Runs the service; it is ready once the network has made one prediction."""
        size = self.detector.preprocessing.size
        batches = asyncio.create_task(self._batcher.run())
        try:
            await self._batcher.predict(torch.zeros(3, size, size, dtype=torch.uint8))
            self._window.clear()  # of the blank photo
            self.state = READY
            yield
        finally:
            self.state = SHUTTING_DOWN
            batches.cancel()
            for threads in (self._decoders, self._network):
                threads.shutdown(wait=False, cancel_futures=True)

    async def predict(self, file: UploadFile) -> PhotoAnswer:
        """The prediction for an uploaded file.

        Raises:
            RequestError: the photo cannot be read.
        """
        try:
            header, pixels, _ = await self._decode(file)
        except errors.RequestError as error:
            self.metrics.count_photo(error.code)
            raise
        prediction = await self._batcher.predict(pixels)
        self.metrics.count_photo("answered")
        return photo_answer(file, prediction, header.camera)

    async def render_saliency(self, file: UploadFile) -> bytes:
        """A PNG of the photo with its saliency map in red.

        Raises:
            RequestError: the photo cannot be read.
        """
        _, pixels, data = await self._decode(file)
        saliency_map = await _run(self._network, lambda: self._renderer.saliency(pixels))
        async with self._free_decoders:
            return await _run(self._decoders, lambda: self._renderer.draw(data, saliency_map))

    async def familiarity(self) -> Familiarity:
        """Whether the latest photos of all clients look like the training photos; also updates the metrics."""
        async with self._free_decoders:
            found = await _run(self._decoders, self._window.judge)
        self.metrics.set_familiarity(found)
        return found

    async def _decode(self, file: UploadFile) -> tuple[PhotoHeader, Tensor, bytes]:
        """Header, pixels (3, S, S) uint8 and bytes of a file, which stays on disk until a decoder thread is free."""
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

    def _predict_pixels(self, pixels: Tensor) -> list[Prediction]:
        detector = self.detector
        if detector.reference is None:
            return detector.decide(detector.probabilities(detector.logits(pixels)))
        logits, features = detector.logits_and_features(pixels)
        self._window.add(pixels, features)
        return detector.decide(detector.probabilities(logits))


async def _run(threads: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, function)


def _use_threads(count: int) -> None:
    """Sets how many threads torch uses for calls from this thread.

    Decoders run in parallel, so each gets one; the network gets them all.
    """
    torch.get_num_threads()  # its first call would reset the number of threads
    torch.set_num_threads(count)
