"""The photos of a request, read as they come: no more of them than the limits allow is ever taken in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from tempfile import SpooledTemporaryFile

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from roadwork.serving import refusals
from roadwork.serving.limits import Limits

FIELD = "images"
# The types under which one photo may be the whole body. What it is, is read from its first bytes.
RAW_TYPES = ("image/jpeg", "image/jpg", "image/png", "image/webp", "application/octet-stream")
_MAX_NAME = 255
_IN_MEMORY = 1_000_000  # bytes of a file; what is above waits on disk for its turn to be decoded


@asynccontextmanager
async def open_uploads(request: Request, limits: Limits) -> AsyncGenerator[list[UploadFile]]:
    """The files of a request, one or more, closed at the end.

    Raises:
        Refusal: the body is too large, too slow, broken, of another type, or has no photo or too many.
    """
    files: list[UploadFile] = []
    try:
        try:
            async with asyncio.timeout(limits.timeout):
                files = await _read(request, limits)
        except TimeoutError:
            raise refusals.body_too_slow(limits) from None
        if not files:
            raise refusals.no_photos(FIELD)
        yield files
    finally:
        for file in files:
            await file.close()


def name_of(file: UploadFile) -> str | None:
    """The file's name as its sender gave it, at most 255 characters of it."""
    return file.filename[:_MAX_NAME] if file.filename else None


async def _read(request: Request, limits: Limits) -> list[UploadFile]:
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_form(request, limits)
    if kind in RAW_TYPES:
        return await _read_raw(request, limits)
    raise refusals.unsupported_body(content_type)


async def _chunks(request: Request, limits: Limits) -> AsyncGenerator[bytes]:
    """The body, until it is above the limit."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.max_bytes:
        raise refusals.body_too_large(int(announced), limits)
    n_bytes = 0
    async for chunk in request.stream():
        n_bytes += len(chunk)
        if n_bytes > limits.max_bytes:
            raise refusals.body_too_large(None, limits)
        yield chunk


async def _read_raw(request: Request, limits: Limits) -> list[UploadFile]:
    spool = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 -- closed with the upload
    file = UploadFile(spool, size=0)  # type: ignore[arg-type]  # as starlette's own parser gives it
    try:
        async for chunk in _chunks(request, limits):
            await file.write(chunk)
    except BaseException:  # a deadline is a cancellation
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
        raise (refusals.too_many_photos(limits) if too_many else refusals.broken_form()) from error
    except (ValueError, LookupError) as error:  # headers of a part that cannot be read
        raise refusals.broken_form() from error
    return await _files(form)


async def _files(form: FormData) -> list[UploadFile]:
    files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
    wrong = [name for name, _ in files if name != FIELD]
    if wrong:
        await form.close()
        raise refusals.wrong_field(wrong[0], FIELD)
    return [file for _, file in files]
