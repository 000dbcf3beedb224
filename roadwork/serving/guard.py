"""Around every request: its time and status are counted, and no stack trace leaves the house."""

from __future__ import annotations

import logging
import time

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from roadwork.serving.error_responses import BODY_ENDED, error_response
from roadwork.serving.metrics import Metrics

_CLIENT_LEFT = 499  # as nginx has it; it is only counted
_SECURITY = {
    # Nothing is loaded from elsewhere. Thumbnails are blobs; Leaflet's style sheet has two pictures as data.
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_HEADERS = [(name.encode(), value.encode()) for name, value in _SECURITY.items()]
_logger = logging.getLogger(__name__)


class Guard:
    """The middleware around the routes."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        """Takes `app`, where to count, and the paths that are counted by name; all others are one."""
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def receive_noted() -> Message:
            message = await receive()
            if not message.get("more_body", False):
                scope[BODY_ENDED] = True
            return message

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        try:
            await self._app(scope, receive_noted, send_guarded)
        except ClientDisconnect:
            status = _CLIENT_LEFT
        except Exception:
            _logger.exception("%s %s failed", scope["method"], scope["path"])
            if status:  # the answer has begun: the server cuts it off
                raise
            await error_response(500, "internal", "The service failed; its log says why. Try again later.")(
                scope, receive, send_guarded
            )
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.count_request(path, status, time.perf_counter() - started)
