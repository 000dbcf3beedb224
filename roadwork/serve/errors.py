"""Limits of the service, and the errors it returns: status, code, message.

Each message names what arrived, what is allowed, and what to do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from roadwork.core.errors import ConfigError
from roadwork.data.formats import FORMAT_NAMES, MEDIA_TYPES
from roadwork.data.images import MAX_PIXELS

MB = 1_000_000
MEGAPIXEL = 1_000_000


@dataclass(frozen=True)
class Limits:
    """The limits of a service.

    Attributes:
        max_batch: photos per forward pass.
        max_wait_ms: longest wait of the first photo of a batch for others.
        queue: photos in the service at once, from the first byte of the request to the response.
        max_mb: largest request body, in megabytes.
        max_images: photos per request.
        max_megapixels: largest photo, by its header.
        timeout: seconds to receive a request, and again to predict.
    """

    max_batch: int = 16
    max_wait_ms: float = 5.0
    queue: int = 64
    max_mb: float = 25.0
    max_images: int = 32
    max_megapixels: float = 50.0
    timeout: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            smallest = 0 if field.name == "max_wait_ms" else 1 if field.type == "int" else 0.001
            if not smallest <= value < math.inf:
                raise ConfigError(f"{_option(field.name)} is {value}; it must be finite and at least {smallest}.")
        if self.max_images > self.queue:
            raise ConfigError(
                f"--max-images is {self.max_images} and --queue {self.queue}: a full request would never be accepted. "
                "Raise --queue, or lower --max-images."
            )
        if self.max_megapixels * MEGAPIXEL > MAX_PIXELS:
            raise ConfigError(
                f"--max-megapixels is {self.max_megapixels:g}; the largest allowed value is {MAX_PIXELS // MEGAPIXEL}."
            )

    @property
    def max_bytes(self) -> int:
        """Largest request body in bytes."""
        return round(self.max_mb * MB)

    @property
    def max_pixels(self) -> int:
        """Largest photo in pixels."""
        return round(self.max_megapixels * MEGAPIXEL)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


class RequestError(Exception):
    """A request, or one of its photos, that the service rejects.

    Attributes:
        status: HTTP status.
        code: stable identifier of the error.
        message: text for people.
        retry_after: seconds to wait before the same request can succeed; None if it cannot.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after


def body_too_large(n_bytes: int | None, limits: Limits) -> RequestError:
    """The body exceeds the limit; `n_bytes` is its Content-Length, or None if unknown."""
    size = f"The request has {n_bytes / MB:.1f} MB" if n_bytes is not None else "The request is too large"
    message = f"{size}; at most {limits.max_mb:g} MB are allowed. Send fewer photos at once, or smaller ones."
    return RequestError(413, "body_too_large", message)


def body_too_slow(limits: Limits) -> RequestError:
    """The body did not arrive in time."""
    return RequestError(
        408,
        "body_too_slow",
        f"The request did not arrive within the limit of {limits.timeout:g} seconds. Send fewer photos at once.",
    )


def too_many_photos(limits: Limits) -> RequestError:
    """The request has too many photos."""
    message = f"The request has too many photos; at most {limits.max_images} are allowed. Send fewer at once."
    return RequestError(413, "too_many_photos", message)


def too_many_pixels(size: str, limits: Limits) -> RequestError:
    """The photo has too many pixels; `size` is like 20000x10000."""
    allowed = f"{limits.max_pixels / MEGAPIXEL:g} million"
    message = f"The photo has {size} pixels; at most {allowed} are allowed. Send a smaller one."
    return RequestError(413, "too_many_pixels", message)


def no_photos(field: str) -> RequestError:
    """The request has no photo."""
    return RequestError(
        400, "no_photos", f"The request has no photo. Send one or more as files of a form, in fields named {field}."
    )


def one_photo_only(count: int) -> RequestError:
    """The path takes one photo, and the request has several."""
    return RequestError(
        400, "one_photo_only", f"The request has {count} photos; this path takes one. Send one request per photo."
    )


def wrong_field(name: str, field: str) -> RequestError:
    """A file is in another form field."""
    message = f"A file is in the form field {name[:40]!r}; allowed: {field!r}. Rename the field."
    return RequestError(400, "wrong_field", message)


def broken_form() -> RequestError:
    """The body is not the form that its Content-Type announces."""
    message = "The body is not valid multipart/form-data, as its Content-Type states. Send the whole form again."
    return RequestError(400, "broken_form", message)


def unsupported_body(content_type: str) -> RequestError:
    """The content type is neither a form nor a photo."""
    return RequestError(
        415,
        "unsupported_body",
        f"The body's Content-Type is {content_type[:60]!r}; allowed are multipart/form-data and, for one photo, "
        f"{', '.join(MEDIA_TYPES)}. Set the header.",
    )


def empty_photo() -> RequestError:
    """The file has no bytes."""
    return RequestError(400, "empty_photo", f"The file is empty. Send a {FORMAT_NAMES} photo.")


def unsupported_format(reason: str) -> RequestError:
    """The file is not a photo, or in another format."""
    message = f"The file cannot be read: {reason}. Convert it to one of the formats {FORMAT_NAMES}."
    return RequestError(415, "unsupported_format", message)


def damaged_photo(reason: str) -> RequestError:
    """The file starts like a photo but cannot be decoded."""
    return RequestError(422, "damaged_photo", f"The photo is damaged: {reason}. Send the original file again.")


def queue_full(limits: Limits) -> RequestError:
    """All queue slots are in use."""
    message = f"The queue of {limits.queue} photos is full. Send the request again in one second."
    return RequestError(429, "queue_full", message, retry_after=1)


def not_in_time(limits: Limits) -> RequestError:
    """The prediction took too long."""
    message = f"The prediction took longer than the limit of {limits.timeout:g} seconds. Try again later."
    return RequestError(503, "not_in_time", message, retry_after=5)


def shutting_down() -> RequestError:
    """The service is stopping."""
    message = "The service is shutting down. Try again after it has restarted."
    return RequestError(503, "shutting_down", message, retry_after=5)
