"""The FastAPI application."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from roadwork import __version__
from roadwork.detector.detector import Detector
from roadwork.serve import errors
from roadwork.serve.admission import FIELD, RAW_TYPES, open_uploads
from roadwork.serve.errors import Limits
from roadwork.serve.schemas import (
    BODY_ENDED,
    ErrorAnswer,
    FamiliarityFacts,
    Health,
    PhotoAnswer,
    PhotoError,
    Predictions,
    ServiceFacts,
    error_response,
    familiarity_facts,
    limit_facts,
    model_facts,
    photo_error,
    request_error_response,
)
from roadwork.serve.service import READY, SHUTTING_DOWN, Metrics, SaliencyRenderer, Service

_CLIENT_LEFT = 499  # nginx's status for a client that disconnected; only for metrics
_SECURITY = {
    # No requests to other hosts. Thumbnails are blobs; Leaflet's style sheet has two images as data URIs.
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_HEADERS = [(name.encode(), value.encode()) for name, value in _SECURITY.items()]
_PATHS = frozenset({"/", "/predict", "/look", "/model", "/familiarity", "/healthz", "/metrics", "/openapi.json"})
_PAGE = Path(str(files("roadwork.serve") / "page"))
_MAP_ASSETS = Path(str(files("roadwork.maps") / "assets"))  # Leaflet and land.geojson
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "No photo, an empty photo, or a malformed form.",
        408: "The body did not arrive in time.",
        413: "The body, the number of photos, or the pixels of a photo exceed the limit.",
        415: "Neither a form nor a photo in an allowed format.",
        422: "The photo is damaged.",
        429: "The queue is full. Try again after Retry-After seconds.",
        503: "The prediction took too long, or the service is shutting down.",
    }.items()
}


_logger = logging.getLogger(__name__)


class RequestMiddleware:
    """Middleware that counts requests, adds security headers, and turns crashes into a JSON 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        """Creates the middleware; `metrics` counts `paths` by name and all other paths together."""
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def receive_and_mark_end() -> Message:
            message = await receive()
            if not message.get("more_body", False):
                scope[BODY_ENDED] = True
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        try:
            await self._app(scope, receive_and_mark_end, send_with_headers)
        except ClientDisconnect:
            status = _CLIENT_LEFT
        except Exception:
            _logger.exception("%s %s failed", scope["method"], scope["path"])
            if status:  # the response has started: the server closes the connection
                raise
            await error_response(500, "internal", "Internal error; see the log of the service. Try again later.")(
                scope, receive, send_with_headers
            )
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.count_request(path, status, time.perf_counter() - started)


def create_app(folder: Path, detector: Detector, limits: Limits) -> FastAPI:
    """The application that serves the detector of a folder; `app.state.service` is its service."""
    service = Service(detector, limits, SaliencyRenderer(detector))
    model = model_facts(detector, folder.resolve().name)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with service.running():
            yield

    # FastAPI's own /docs loads scripts from another host; this service loads nothing from other hosts.
    app = FastAPI(title="roadwork", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    app.add_middleware(RequestMiddleware, metrics=service.metrics, paths=_PATHS)
    _add_error_handlers(app, limits)

    @app.post("/predict", responses=_ERRORS, openapi_extra=_request_body(several=True))
    async def predict(request: Request) -> Predictions:
        """Predict roadwork for each photo. If one photo of several is unreadable, an `error` takes its place; a single
        unreadable photo gives an error status.
        """
        async with _accept(request, service) as uploads:
            if len(uploads) == 1:
                return Predictions(predictions=[await service.predict(uploads[0])], model=model)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_predict_one(service, upload)) for upload in uploads]
        return Predictions(predictions=[task.result() for task in tasks], model=model)

    @app.post(
        "/look",
        responses=_ERRORS | {200: {"content": {"image/png": {}}}},
        response_class=Response,
        openapi_extra=_request_body(several=False),
    )
    async def look(request: Request) -> Response:
        """A PNG of one photo with its saliency map in red."""
        async with _accept(request, service) as uploads:
            if len(uploads) > 1:
                raise errors.one_photo_only(len(uploads))
            return Response(await service.render_saliency(uploads[0]), media_type="image/png")

    _add_status(app, service, ServiceFacts(model=model, limits=limit_facts(limits)))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_PAGE / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/page", StaticFiles(directory=_PAGE))
    app.mount("/map", StaticFiles(directory=_MAP_ASSETS))
    return app


def _add_status(app: FastAPI, service: Service, facts: ServiceFacts) -> None:
    """Adds the routes that report on the service."""

    @app.get("/model")
    async def model_and_limits() -> ServiceFacts:
        """The model and the limits."""
        return facts

    @app.get("/familiarity")
    async def familiarity() -> FamiliarityFacts:
        """Whether the latest photos of all clients look like the training photos."""
        return familiarity_facts(await service.familiarity())

    @app.get("/healthz", responses={503: {"model": Health, "description": "Not ready, or shutting down."}})
    async def healthz(response: Response) -> Health:
        """Whether the service can predict: after the first forward pass and before shutdown."""
        response.status_code = 200 if service.state == READY else 503
        return Health(status=service.state)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)


@asynccontextmanager
async def _accept(request: Request, service: Service) -> AsyncGenerator[list[UploadFile]]:
    """The uploaded files of a request, within the queue and time limits."""
    if service.state == SHUTTING_DOWN:
        raise errors.shutting_down()
    with service.queue.reserve() as reservation:
        async with open_uploads(request, service.limits) as uploads:
            reservation.add(len(uploads) - 1)
            try:
                async with asyncio.timeout(service.limits.timeout):
                    yield uploads
            except TimeoutError:
                raise errors.not_in_time(service.limits) from None


async def _predict_one(service: Service, upload: UploadFile) -> PhotoAnswer | PhotoError:
    try:
        return await service.predict(upload)
    except errors.RequestError as error:
        return photo_error(upload, error)


def _add_error_handlers(app: FastAPI, limits: Limits) -> None:
    """Returns every error as JSON {"error", "code"}, also for unknown paths and methods."""

    @app.exception_handler(errors.RequestError)
    async def request_error(request: Request, error: errors.RequestError) -> JSONResponse:
        return request_error_response(request, error, limits)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path[:100]}: {error.detail}. See /openapi.json for the API."
        response = error_response(error.status_code, "http", message)
        response.headers.update(error.headers or {})
        return response


def _request_body(*, several: bool) -> dict[str, Any]:
    """The request body of a route, for /openapi.json."""
    binary = {"type": "string", "format": "binary"}
    photos = {"type": "array", "items": binary} if several else binary
    form = {"type": "object", "required": [FIELD], "properties": {FIELD: photos}}
    content = {"multipart/form-data": {"schema": form}} | {kind: {"schema": binary} for kind in RAW_TYPES}
    return {"requestBody": {"required": True, "content": content}}
