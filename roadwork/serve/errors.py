"""Limits of the service, and the errors it returns: status, code, message.

Each message says what came, what is allowed, and what to do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from roadwork.core.errors import ConfigError
from roadwork.data.images import FORMATS, MAX_PIXELS

MB = 1_000_000
MEGAPIXEL = 1_000_000
_FORMATS = ", ".join(FORMATS)


@dataclass(frozen=True)
class Limits:
    """The limits of a service.

    Attributes:
        max_batch: photos that go through the network at once.
        max_wait_ms: how long the first photo of a batch waits for others.
        queue: photos that may be in the service at once, from the first byte of their request to the answer.
        max_mb: megabytes of a request's body.
        max_images: photos in a request.
        max_megapixels: of a photo, as its header states them.
        timeout: seconds in which a request must have come, and in which it is answered.
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
                raise ConfigError(f"{_option(field.name)} is {value}; it must be at least {smallest}, and finite.")
        if self.max_images > self.queue:
            raise ConfigError(
                f"--max-images is {self.max_images} and --queue {self.queue}: a full request would never find room. "
                "Raise --queue, or lower --max-images."
            )
        if self.max_megapixels * MEGAPIXEL > MAX_PIXELS:
            raise ConfigError(
                f"--max-megapixels is {self.max_megapixels:g}; no photo above {MAX_PIXELS // MEGAPIXEL} is ever read."
            )

    @property
    def max_bytes(self) -> int:
        """Of a request's body."""
        return round(self.max_mb * MB)

    @property
    def max_pixels(self) -> int:
        """Of a photo."""
        return round(self.max_megapixels * MEGAPIXEL)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


class Refusal(Exception):  # noqa: N818 -- the service is in order; it is the request that is not
    """A request, or one photo of it, that is not answered.

    Attributes:
        status: of HTTP.
        code: what it is, in one word that does not change.
        message: for people.
        retry_after: seconds after which the same request may be sent again; None where that would not help.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after


def body_too_large(came: int | None, limits: Limits) -> Refusal:
    """The body is above the limit; `came`: as it was announced, None where it was found on the way."""
    size = f"The request has {came / MB:.1f} MB" if came is not None else "The request has more than is allowed"
    message = f"{size}; at most {limits.max_mb:g} MB are allowed. Send fewer photos at once, or smaller ones."
    return Refusal(413, "body_too_large", message)


def body_too_slow(limits: Limits) -> Refusal:
    """The body was not there in time."""
    return Refusal(
        408,
        "body_too_slow",
        f"The photos had not arrived after {limits.timeout:g} seconds, which is the limit. Send fewer at once.",
    )


def too_many_photos(limits: Limits) -> Refusal:
    """More photos came than a request may have."""
    message = f"More than {limits.max_images} photos came in one request. Send at most {limits.max_images} at once."
    return Refusal(413, "too_many_photos", message)


def too_many_pixels(size: str, limits: Limits) -> Refusal:
    """The photo is above the limit of pixels; `size`: such as 20000x10000."""
    allowed = f"{limits.max_pixels / MEGAPIXEL:g} million"
    message = f"The photo has {size} pixels; at most {allowed} are allowed. Send a smaller one."
    return Refusal(413, "too_many_pixels", message)


def no_photos(field: str) -> Refusal:
    """There is no photo in the request."""
    return Refusal(
        400, "no_photos", f"No photo came. Send one or more as files of a form, each in a field named {field}."
    )


def one_photo_only(came: int) -> Refusal:
    """Several photos came where one is taken."""
    return Refusal(400, "one_photo_only", f"{came} photos came; this address takes one. Send one request for each.")


def wrong_field(name: str, field: str) -> Refusal:
    """A file came in another field of the form than that for photos."""
    message = f"A file came in the field {name[:40]!r}; photos are taken from {field!r} only. Rename the field."
    return Refusal(400, "wrong_field", message)


def broken_form() -> Refusal:
    """The body is not the form that its content type says."""
    message = (
        "The body is not a form of type multipart/form-data, though its Content-Type says so. Send it again, whole."
    )
    return Refusal(400, "broken_form", message)


def unsupported_body(content_type: str) -> Refusal:
    """The content type is neither a form nor a photo."""
    return Refusal(
        415,
        "unsupported_body",
        f"The body's Content-Type is {content_type[:60]!r}; allowed are multipart/form-data and, for one photo, "
        "image/jpeg, image/png or image/webp. Set the header.",
    )


def empty_photo() -> Refusal:
    """The file has no bytes."""
    return Refusal(400, "empty_photo", f"The file is empty. Send a photo in one of the formats {_FORMATS}.")


def unsupported_format() -> Refusal:
    """The file is no photo, or of another format."""
    return Refusal(
        415, "unsupported_format", f"The file is not one of the formats {_FORMATS}. Convert it to one of them."
    )


def damaged_photo(reason: str) -> Refusal:
    """The file begins like a photo and cannot be decoded."""
    return Refusal(422, "damaged_photo", f"The photo is damaged: {reason}. Send the original file again.")


def queue_full(limits: Limits) -> Refusal:
    """There is no room for the photos now."""
    message = f"The service has its {limits.queue} photos to answer already. Send the request again in a second."
    return Refusal(429, "queue_full", message, retry_after=1)


def not_in_time(limits: Limits) -> Refusal:
    """The answer was not there in time."""
    message = f"No answer was found within {limits.timeout:g} seconds, which is the limit. Try again a little later."
    return Refusal(503, "not_in_time", message, retry_after=5)


def shutting_down() -> Refusal:
    """The service stops."""
    message = "The service is shutting down and takes no new photos. Try again when it is back."
    return Refusal(503, "shutting_down", message, retry_after=5)
