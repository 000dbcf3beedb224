"""The answers, as their JSON is: this is what /openapi.json states."""

from __future__ import annotations

import math

from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile

from roadwork.inference.detector import Detector, Prediction
from roadwork.inference.exif import CameraFacts
from roadwork.serving.limits import Limits
from roadwork.serving.refusals import Refusal
from roadwork.serving.uploads import name_of


class PhotoAnswer(BaseModel):
    """What the detector says of a photo."""

    filename: str | None = Field(description="As it came.")
    label: str = Field(description="`Roadwork` or `None`, decided at the model's threshold.")
    probability: float = Field(description="Of Roadwork, calibrated.")
    abstain: bool = Field(description="Whether it is too near the threshold to be relied on.")
    latitude: float | None = Field(description="Degrees, from the photo's EXIF; null without a position.")
    longitude: float | None = Field(description="Likewise.")


class PhotoError(BaseModel):
    """Why one photo of several is not answered."""

    filename: str | None = Field(description="As it came.")
    error: str = Field(description="For people: what came, what is allowed, what to do.")
    code: str = Field(description="For programs; does not change.")


class ModelFacts(BaseModel):
    """The detector that answered."""

    name: str = Field(description="Of its folder.")
    threshold: float = Field(description="The probability from which Roadwork is said.")
    prior: float | None = Field(description="The share of Roadwork the probabilities are made for; null if not known.")
    abstain_low: float | None = Field(description="Between this and abstain_high, ends included, it abstains.")
    abstain_high: float | None = Field(description="Null where it never abstains.")


class Predictions(BaseModel):
    """The answers to a request, in the order of its photos."""

    predictions: list[PhotoAnswer | PhotoError]
    model: ModelFacts


class LimitFacts(BaseModel):
    """What a request may be."""

    max_bytes: int = Field(description="Of a request's body.")
    max_images: int = Field(description="In a request.")
    max_pixels: int = Field(description="Of a photo.")
    timeout: float = Field(description="Seconds in which a request must have come, and in which it is answered.")


class ServiceFacts(BaseModel):
    """What is served."""

    model: ModelFacts
    limits: LimitFacts


class ErrorAnswer(BaseModel):
    """Why a request is not answered."""

    error: str = Field(description="For people: what came, what is allowed, what to do.")
    code: str = Field(description="For programs; does not change.")


class Health(BaseModel):
    """Whether photos are answered now."""

    status: str = Field(description="`ready`, `starting` or `shutting_down`.")


def photo_answer(file: UploadFile, prediction: Prediction, camera: CameraFacts) -> PhotoAnswer:
    """The answer for a photo."""
    has_position = not math.isnan(camera.latitude)
    return PhotoAnswer(
        filename=name_of(file),
        label=prediction.label,
        probability=prediction.probability,
        abstain=prediction.abstain,
        latitude=camera.latitude if has_position else None,
        longitude=camera.longitude if has_position else None,
    )


def photo_error(file: UploadFile, refusal: Refusal) -> PhotoError:
    """The answer for a photo that is refused beside others."""
    return PhotoError(filename=name_of(file), error=refusal.message, code=refusal.code)


def model_facts(detector: Detector, name: str) -> ModelFacts:
    """What is said of a detector."""
    facts = detector.facts
    return ModelFacts(
        name=name,
        threshold=facts.threshold,
        prior=facts.prior,
        abstain_low=facts.abstain_low,
        abstain_high=facts.abstain_high,
    )


def limit_facts(limits: Limits) -> LimitFacts:
    """What is said of the limits."""
    return LimitFacts(
        max_bytes=limits.max_bytes, max_images=limits.max_images, max_pixels=limits.max_pixels, timeout=limits.timeout
    )
