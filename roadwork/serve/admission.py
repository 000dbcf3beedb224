"""Admits requests: reserves queue slots, reads uploads within limits, checks photo headers."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile

from PIL import Image
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from roadwork.data.formats import MEDIA_TYPES
from roadwork.data.images import UnreadableImageError, open_image
from roadwork.data.utils.exif import CameraMetadata, read_camera_metadata
from roadwork.serve import errors
from roadwork.serve.errors import Limits, damaged_photo, empty_photo, queue_full, too_many_pixels, unsupported_format

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
FIELD = "images"

# Content types of a body that is one photo. Its format is read from its first bytes.
RAW_TYPES = (*MEDIA_TYPES, "application/octet-stream")
_MAX_NAME = 255
_IN_MEMORY = 1_000_000  # bytes of a file; a larger one waits on disk until it is decoded


class Reservation:
    """The queue slots of one request."""

    def __init__(self, queue: AdmissionQueue) -> None:
        self._queue = queue
        self.n_slots = 0

    def add(self, count: int) -> None:
        """Reserves further slots.

        Raises:
            RequestError: fewer slots are free.
        """
        self._queue.check_free(count)
        self._queue.used += count
        self.n_slots += count


class AdmissionQueue:
    """Counts one slot per photo that is being uploaded, decoded or predicted.

    A request reserves a slot with its first byte, so that uploads are bounded too, and one more per further photo.
    Use it from the event loop only.

    Attributes:
        used: slots in use.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.used = 0

    def check_free(self, count: int) -> None:
        """Raises RequestError if fewer than `count` slots are free."""
        if self.used + count > self._limits.queue:
            raise queue_full(self._limits)

    @contextmanager
    def reserve(self) -> Iterator[Reservation]:
        """Reserves one slot, and releases it at the end with all that were added.

        Raises:
            RequestError: no slot is free.
        """
        reservation = Reservation(self)
        reservation.add(1)
        try:
            yield reservation
        finally:
            self.used -= reservation.n_slots


@dataclass(frozen=True)
class PhotoHeader:
    """Facts about a photo, read before its pixels are decoded.

    Attributes:
        n_pixels: width times height.
        camera: position and time from EXIF.
    """

    n_pixels: int
    camera: CameraMetadata


def read_header(data: bytes, limits: Limits) -> PhotoHeader:
    """The header of an encoded photo, without decoding its pixels.

    Raises:
        RequestError: the photo is empty, damaged, in another format, or has too many pixels.
    """
    if not data:
        raise empty_photo()
    try:
        with open_image(io.BytesIO(data)) as image:
            n_pixels = image.width * image.height
            if n_pixels > limits.max_pixels:
                raise too_many_pixels(f"{image.width}x{image.height}", limits)
            return PhotoHeader(n_pixels, read_camera_metadata(data))
    except UnreadableImageError as error:
        if isinstance(error.__cause__, _BOMBS):
            raise too_many_pixels("far too many", limits) from None
        if error.__cause__ is None:  # its first bytes are those of no format
            raise unsupported_format(str(error)) from None
        raise damaged_photo(f"its header cannot be read ({type(error.__cause__).__name__})") from error


@asynccontextmanager
async def open_uploads(request: Request, limits: Limits) -> AsyncGenerator[list[UploadFile]]:
    """The uploaded files of a request, at least one; they are closed at the end.

    Raises:
        RequestError: the body is too large, too slow, malformed or of another type, or has no photo or too many.
    """
    files: list[UploadFile] = []
    try:
        try:
            async with asyncio.timeout(limits.timeout):
                files = await _read(request, limits)
        except TimeoutError:
            raise errors.body_too_slow(limits) from None
        if not files:
            raise errors.no_photos(FIELD)
        yield files
    finally:
        for file in files:
            await file.close()


def name_of(file: UploadFile) -> str | None:
    """The file name that the client sent, cut to 255 characters."""
    return file.filename[:_MAX_NAME] if file.filename else None


async def _read(request: Request, limits: Limits) -> list[UploadFile]:
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_form(request, limits)
    if kind in RAW_TYPES:
        return await _read_raw(request, limits)
    raise errors.unsupported_body(content_type)


async def _chunks(request: Request, limits: Limits) -> AsyncGenerator[bytes]:
    """Yields the body in chunks; raises RequestError once it exceeds the limit."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.max_bytes:
        raise errors.body_too_large(int(announced), limits)
    n_bytes = 0
    async for chunk in request.stream():
        n_bytes += len(chunk)
        if n_bytes > limits.max_bytes:
            raise errors.body_too_large(None, limits)
        yield chunk


async def _read_raw(request: Request, limits: Limits) -> list[UploadFile]:
    spool = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 -- closed with the upload
    file = UploadFile(spool, size=0)  # type: ignore[arg-type]  # as in starlette's parser
    try:
        async for chunk in _chunks(request, limits):
            await file.write(chunk)
    except BaseException:  # a timeout cancels the task
        await file.close()
        raise
    await file.seek(0)
    return [file]


async def _read_form(request: Request, limits: Limits) -> list[UploadFile]:
    parser = MultiPartParser(request.headers, _chunks(request, limits), max_files=limits.max_images, max_fields=16)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        too_many = error.message.startswith("Too many files")
        raise (errors.too_many_photos(limits) if too_many else errors.broken_form()) from error
    except (ValueError, LookupError) as error:  # malformed part headers
        raise errors.broken_form() from error
    return await _files(form)


async def _files(form: FormData) -> list[UploadFile]:
    files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
    wrong = [name for name, _ in files if name != FIELD]
    if wrong:
        await form.close()
        raise errors.wrong_field(wrong[0], FIELD)
    return [file for _, file in files]
