"""The server process: socket, header timeout, graceful shutdown."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from roadwork.core.errors import ConfigError
from roadwork.serve.service import SHUTTING_DOWN, Service

MAX_CONNECTIONS = 500
_HEADER_SECONDS = 10.0
_CLOSING_SECONDS = 5


_logger = logging.getLogger(__name__)


def open_socket(host: str, port: int) -> socket.socket:
    """A socket bound to the address; port 0 takes a free port.

    Raises:
        ConfigError: the address is in use or does not belong to this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as on_failure:
            bound = on_failure.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            on_failure.pop_all()
    except OSError as error:
        raise ConfigError(
            f"http://{host}:{port} cannot be opened: {error.strerror or error}. Choose another --port (0 for a free "
            "one) or a --host of this machine."
        ) from error
    return bound


def address_of(bound: socket.socket) -> str:
    """The URL of a bound socket, such as http://127.0.0.1:8000."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: FastAPI, bound: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT (Ctrl-C), then drains accepted requests and returns.

    Args:
        app: from `create_app`.
        bound: from `open_socket`.
        on_ready: called once requests are accepted.

    Raises:
        SystemExit: the application did not start; the log has the reason.
    """
    _quiet_libraries()
    config = uvicorn.Config(
        app,
        http=_HeaderTimeoutProtocol,
        ws="none",
        log_config=None,
        access_log=False,  # clients' addresses are not logged
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=_CLOSING_SECONDS,
    )
    server = _Server(config, app.state.service, on_ready)
    # uvicorn raises the signal again when it ends; a requested stop is not a failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[bound])
    if not server.started:
        raise SystemExit(1)


def _quiet_libraries() -> None:
    """Hides messages that any client can cause, so that hostile clients cannot fill a disk with logs."""
    for name in ("python_multipart", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"PIL\..*")


class _Server(uvicorn.Server):
    """Drains accepted requests before it closes; new requests get 503 meanwhile."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        service = self._service
        service.state = SHUTTING_DOWN
        _logger.info("Shutting down; %d photos are still queued or in progress.", service.queue.used)
        latest = time.monotonic() + service.limits.timeout
        # Polls as uvicorn does: there is no event for a second Ctrl-C.
        while service.queue.used and not self.force_exit and time.monotonic() < latest:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


class _HeaderTimeoutProtocol(H11Protocol):
    """Closes a connection whose request headers do not arrive in time; uvicorn itself waits forever."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watch()
        elif self._timer is None:
            self._timer = self.loop.call_later(_HEADER_SECONDS, self.transport.close)

    def _stop_watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
