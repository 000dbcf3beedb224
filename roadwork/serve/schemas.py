"""JSON responses of the service, as /openapi.json states them."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress

from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from roadwork.data.utils.exif import CameraMetadata
from roadwork.detector.detector import Detector, Prediction
from roadwork.serve.admission import name_of
from roadwork.serve.errors import Limits, RequestError

_LINGER_SECONDS = 2.0
BODY_ENDED = "roadwork.body_ended"  # in a request's scope, once all of its body has come


class PhotoAnswer(BaseModel):
    """The prediction for one photo."""

    filename: str | None = Field(description="As it came.")
    label: str = Field(description="`Roadwork` or `None`, decided at the model's threshold.")
    probability: float = Field(description="Of Roadwork, calibrated.")
    abstain: bool = Field(description="Whether it is too near the threshold to be relied on.")
    latitude: float | None = Field(description="Degrees, from the photo's EXIF; null without a position.")
    longitude: float | None = Field(description="Likewise.")


class PhotoError(BaseModel):
    """Why one photo of several has no prediction."""

    filename: str | None = Field(description="As it came.")
    error: str = Field(description="For people: what came, what is allowed, what to do.")
    code: str = Field(description="For programs; does not change.")


class ModelFacts(BaseModel):
    """The detector that made the predictions."""

    name: str = Field(description="Of its folder.")
    threshold: float = Field(description="The probability from which Roadwork is said.")
    prior: float | None = Field(description="The share of Roadwork the probabilities are made for; null if not known.")
    abstain_low: float | None = Field(description="Between this and abstain_high, ends included, it abstains.")
    abstain_high: float | None = Field(description="Null where it never abstains.")


class Predictions(BaseModel):
    """The predictions of a request, in the order of its photos."""

    predictions: list[PhotoAnswer | PhotoError]
    model: ModelFacts


class LimitFacts(BaseModel):
    """The limits of a request."""

    max_bytes: int = Field(description="Of a request's body.")
    max_images: int = Field(description="In a request.")
    max_pixels: int = Field(description="Of a photo.")
    timeout: float = Field(description="Seconds in which a request must have come, and in which it is answered.")


class ServiceFacts(BaseModel):
    """The detector and the limits of the service."""

    model: ModelFacts
    limits: LimitFacts


class ErrorAnswer(BaseModel):
    """Why a request was rejected."""

    error: str = Field(description="For people: what came, what is allowed, what to do.")
    code: str = Field(description="For programs; does not change.")


class Health(BaseModel):
    """Whether the service can predict now."""

    status: str = Field(description="`ready`, `starting` or `shutting_down`.")


def photo_answer(file: UploadFile, prediction: Prediction, camera: CameraMetadata) -> PhotoAnswer:
    """The response entry of a predicted photo."""
    has_position = not math.isnan(camera.latitude)
    return PhotoAnswer(
        filename=name_of(file),
        label=prediction.label,
        probability=prediction.probability,
        abstain=prediction.abstain,
        latitude=camera.latitude if has_position else None,
        longitude=camera.longitude if has_position else None,
    )


def photo_error(file: UploadFile, error: RequestError) -> PhotoError:
    """The response entry of a photo that was rejected."""
    return PhotoError(filename=name_of(file), error=error.message, code=error.code)


def model_facts(detector: Detector, name: str) -> ModelFacts:
    """The facts of a detector that responses include."""
    facts = detector.facts
    return ModelFacts(
        name=name,
        threshold=facts.threshold,
        prior=facts.prior,
        abstain_low=facts.abstain_low,
        abstain_high=facts.abstain_high,
    )


def limit_facts(limits: Limits) -> LimitFacts:
    """The limits that responses include."""
    return LimitFacts(
        max_bytes=limits.max_bytes, max_images=limits.max_images, max_pixels=limits.max_pixels, timeout=limits.timeout
    )


def error_response(status: int, code: str, message: str) -> JSONResponse:
    """An error response that does not depend on the request body."""
    return JSONResponse(ErrorAnswer(error=message, code=code).model_dump(), status)


def request_error_response(request: Request, error: RequestError, limits: Limits) -> JSONResponse:
    """The response to a rejected request, also while its body is still arriving."""
    response = error_response(error.status, error.code, error.message)
    if not request.scope.get(BODY_ENDED, False):
        response = _EarlyResponse(response, limits.max_bytes)
    if error.retry_after is not None:
        response.headers["retry-after"] = str(error.retry_after)
    return response


class _EarlyResponse(JSONResponse):
    """Responds while the body is still arriving, drains a little more of it, and closes the connection.

    Closing at once on a client that still sends can lose the response; nginx's lingering_close does the same.
    """

    def __init__(self, response: JSONResponse, max_bytes: int) -> None:
        super().__init__(None, response.status_code)
        self.body = response.body
        self.init_headers({"connection": "close"})
        self._max_bytes = max_bytes

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                await _drain(receive, self._max_bytes)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive, max_bytes: int) -> None:
    n_bytes = 0
    while n_bytes <= max_bytes:
        message = await receive()
        n_bytes += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
