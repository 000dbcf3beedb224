"""The answer to a request that is not answered: {"error", "code"}, and the connection left in good order."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from roadwork.serving.answers import ErrorAnswer
from roadwork.serving.limits import Limits
from roadwork.serving.refusals import Refusal

_LINGER_SECONDS = 2.0
BODY_ENDED = "roadwork.body_ended"  # in a request's scope, once all of its body has come


def error_response(status: int, code: str, message: str) -> JSONResponse:
    """An error that has nothing to do with the request's body."""
    return JSONResponse(ErrorAnswer(error=message, code=code).model_dump(), status)


def refusal_response(request: Request, refusal: Refusal, limits: Limits) -> JSONResponse:
    """The answer to a request that is refused, whether its body has come or not."""
    response = error_response(refusal.status, refusal.code, refusal.message)
    if not request.scope.get(BODY_ENDED, False):
        response = _EarlyResponse(response, limits.max_bytes)
    if refusal.retry_after is not None:
        response.headers["retry-after"] = str(refusal.retry_after)
    return response


class _EarlyResponse(JSONResponse):
    """Answers while the body is still coming, takes in a little more of it, and closes the connection.

    To close at once on a client that still sends can lose it the answer; nginx's lingering_close does the same.
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
