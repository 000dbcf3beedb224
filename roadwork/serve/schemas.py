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
from roadwork.detector.familiarity import Familiarity
from roadwork.serve.admission import name_of
from roadwork.serve.errors import Limits, RequestError

_LINGER_SECONDS = 2.0
BODY_ENDED = "roadwork.body_ended"  # set in a request's scope once its whole body has arrived


class PhotoAnswer(BaseModel):
    """The prediction for one photo."""

    filename: str | None = Field(description="As sent by the client.")
    label: str = Field(description="`Roadwork` or `None`, decided at the model's threshold.")
    probability: float = Field(description="Calibrated probability of Roadwork.")
    abstain: bool = Field(description="Whether the probability is in the abstention band.")
    latitude: float | None = Field(description="Degrees, from EXIF; null if missing.")
    longitude: float | None = Field(description="Degrees, from EXIF; null if missing.")


class PhotoError(BaseModel):
    """Why one photo of several has no prediction."""

    filename: str | None = Field(description="As sent by the client.")
    error: str = Field(description="Message: what arrived, what is allowed, what to do.")
    code: str = Field(description="Stable error code.")


class ModelFacts(BaseModel):
    """The detector that made the predictions."""

    name: str = Field(description="Name of the model folder.")
    threshold: float = Field(description="Roadwork is predicted at this probability or more.")
    prior: float | None = Field(description="Share of Roadwork that the probabilities assume; null if unknown.")
    abstain_low: float | None = Field(description="Lower end of the abstention band, included; null without a band.")
    abstain_high: float | None = Field(description="Upper end of the abstention band, included; null without a band.")


class Predictions(BaseModel):
    """The predictions of a request, in the order of its photos."""

    predictions: list[PhotoAnswer | PhotoError]
    model: ModelFacts


class LimitFacts(BaseModel):
    """The limits of a request."""

    max_bytes: int = Field(description="Largest request body.")
    max_images: int = Field(description="Most photos per request.")
    max_pixels: int = Field(description="Largest photo.")
    timeout: float = Field(description="Seconds to receive a request, and again to predict.")


class ServiceFacts(BaseModel):
    """The detector and the limits of the service."""

    model: ModelFacts
    limits: LimitFacts


class ErrorAnswer(BaseModel):
    """Why a request was rejected."""

    error: str = Field(description="Message: what arrived, what is allowed, what to do.")
    code: str = Field(description="Stable error code.")


class FamiliarityFacts(BaseModel):
    """Whether the latest photos of all clients look like the training photos."""

    verdict: str = Field(description="`familiar`, `unfamiliar` or `unknown`.")
    auc: float | None = Field(description="How well a classifier separates them from training photos; null: unknown.")
    threshold: float | None = Field(description="The AUC of unseen groups of training photos in 95 of 100 cases.")
    n: int = Field(description="Photos compared.")
    differs: list[str] = Field(description="Plain facts that differ most, with both medians.")
    reason: str = Field(description="Why the verdict is unknown, else empty.")


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
    """The model facts in responses."""
    facts = detector.facts
    return ModelFacts(
        name=name,
        threshold=facts.threshold,
        prior=facts.prior,
        abstain_low=facts.abstain_low,
        abstain_high=facts.abstain_high,
    )


def limit_facts(limits: Limits) -> LimitFacts:
    """The limits in responses."""
    return LimitFacts(
        max_bytes=limits.max_bytes, max_images=limits.max_images, max_pixels=limits.max_pixels, timeout=limits.timeout
    )


def familiarity_facts(found: Familiarity) -> FamiliarityFacts:
    """A verdict on the latest photos."""
    return FamiliarityFacts(
        verdict=found.verdict,
        auc=found.auc,
        threshold=found.threshold,
        n=found.n,
        differs=list(map(str, found.notable)),
        reason=found.reason,
    )


def error_response(status: int, code: str, message: str) -> JSONResponse:
    """An error response."""
    return JSONResponse(ErrorAnswer(error=message, code=code).model_dump(), status)


def request_error_response(request: Request, error: RequestError, limits: Limits) -> JSONResponse:
    """The response to a rejected request, also if its body is still arriving."""
    response = error_response(error.status, error.code, error.message)
    if not request.scope.get(BODY_ENDED, False):
        response = _EarlyResponse(response, limits.max_bytes)
    if error.retry_after is not None:
        response.headers["retry-after"] = str(error.retry_after)
    return response


class _EarlyResponse(JSONResponse):
    """Responds while the body is still arriving, reads a little more of it, and closes the connection.

    If it closed at once, a client that still sends could lose the response (as in nginx's lingering_close).
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
