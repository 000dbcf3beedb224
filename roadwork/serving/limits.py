"""What the service takes, and how long it tries."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from roadwork.data.images import MAX_PIXELS
from roadwork.errors import ConfigError

MB = 1_000_000
MEGAPIXEL = 1_000_000


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
