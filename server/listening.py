"""The HTTP server: uvicorn as vLLM sets it up, with an end of its own, and an end for connections that say nothing."""

import argparse
import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from server import logs
from server.admission.under_way import ABORT
from server.errors import EngineDiedError
from server.lifecycle import Lifecycle
from server.vllm_api import NoSignalServer, SSLCertRefresher, get_uvicorn_log_config

_SECONDS_FOR_HEADERS = 20.0
"""What a connection may take until its first request's headers are there, and a later request from its first byte."""

_SECONDS_BETWEEN_REQUESTS = 75
"""How long a connection is kept on which no further request comes, unless VLLM_HTTP_TIMEOUT_KEEP_ALIVE says otherwise.
Longer than clients (httpx: 5 seconds) and most load balancers (60) keep theirs: who gives a connection up first must
be the one who sends on it, or a request is lost on a connection that is just being closed."""

_MOST_HEADER_BYTES, _MOST_HEADERS = 64 * 1024, 256
"""Of a request, where vLLM's flags do not say."""

_SECONDS_TO_TELL = 0.5
"""How long connections stay open when everything under way has ended: who sends just then is told that the server is
shut down, and does not lose a request on a connection that is closed meanwhile."""

_SECONDS_TO_CLOSE = 5.0
_BETWEEN_LOOKS = 0.5
"""Seconds between two looks at the Reasoner's engine."""


class Connection(HttpToolsProtocol):
    """uvicorn's, which drops connections on which no request comes or headers never end, lets the application drop one,
    and tells every request on a connection when its client has left."""

    _patience: asyncio.TimerHandle | None = None
    _has_begun = False
    """Whether there is a part of a request whose headers are not complete."""
    _unread = _arrived = 0
    """Bytes of the request line and the headers so far, and all that came since headers are expected."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._unanswered = list[RequestResponseCycle]()
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn tells the newest request only. Of several that were sent at once, the one under way would go on."""
        self._have_headers()
        super().connection_lost(exc)
        self.pipeline.clear()
        for request in self._unanswered:
            if not request.response_complete:
                request.disconnected = True
                request.message_event.set()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unread, self._has_begun = 0, True
        self._expect_headers()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(name, value)
        if len(self.headers) > self._limit("h11_max_header_count"):
            self._refuse()

    def on_headers_complete(self) -> None:
        self._has_begun = False
        self._have_headers()
        if self.transport.is_closing():
            return
        extensions: dict[str, Any] = {ABORT: self.transport.abort}
        self.scope["extensions"] = extensions
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self._unanswered = [request for request in self._unanswered if not request.response_complete]
            self._unanswered.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._has_begun and not self.transport.is_closing():
            self._expect_headers()

    def data_received(self, data: bytes) -> None:
        self._expect_headers()
        super().data_received(data)
        if self._patience is not None and not self._is_answering:
            self._arrived += len(data)
            if self._arrived > self._limit("h11_max_incomplete_event_size"):  # a header without an end
                self._refuse()

    @property
    def _is_answering(self) -> bool:
        """Whether a response is still being made on this connection."""
        return self.cycle is not None and not self.cycle.response_complete

    def _count(self, *parts: bytes) -> None:
        self._unread += sum(map(len, parts))
        if self._unread > self._limit("h11_max_incomplete_event_size"):
            self._refuse()

    def _limit(self, name: str) -> int:
        limit: int = getattr(self.config, name)
        return limit

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def _expect_headers(self) -> None:
        if self._patience is None and not self._is_answering:
            self._arrived = 0
            self._patience = self.loop.call_later(_SECONDS_FOR_HEADERS, self.transport.abort)

    def _have_headers(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


async def listen(
    app: FastAPI,
    args: argparse.Namespace,
    sock: Any,
    lifecycle: Lifecycle,
    died: Callable[[], bool],
    on_start: Callable[[], None],
) -> None:
    """Serve the app until the lifecycle is ended; then finish what is under way. `on_start` is called once requests are
    answered. EngineDiedError as soon as the Reasoner's engine has died."""
    config = _config(app, args)
    server = app.state.server = NoSignalServer(config)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    refresher = _certificate_refresher(config, args)
    lifecycle.listen_for_signals()
    dying = asyncio.create_task(_until_death(died))
    ending = asyncio.create_task(lifecycle.ending.wait())
    try:
        await _until_started(server, serving)
        if serving.done():  # it could not even begin
            serving.result()
            return
        lifecycle.ready = True
        on_start()
        await asyncio.wait({serving, dying, ending}, return_when=asyncio.FIRST_COMPLETED)
        if ending.done() and not died():
            draining = asyncio.create_task(lifecycle.drain())
            await asyncio.wait({draining, dying, serving}, return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()
            if draining.done() and not died():
                await _last_words(server, lifecycle)
        if died():
            await lifecycle.give_up()
            raise EngineDiedError
        if serving.done():
            serving.result()
    finally:
        dying.cancel()
        ending.cancel()
        if refresher is not None:
            refresher.stop()
        await _closed(server, serving)


async def _until_started(server: uvicorn.Server, serving: "asyncio.Task[None]") -> None:
    while not server.started and not serving.done():  # noqa: ASYNC110  # uvicorn tells nobody
        await asyncio.sleep(0.02)


async def _last_words(server: uvicorn.Server, lifecycle: Lifecycle) -> None:
    """Take no further connection, and refuse what still comes on those that are open."""
    for listener in server.servers:
        listener.close()
    await lifecycle.unless_hurried(_SECONDS_TO_TELL)


async def _closed(server: uvicorn.Server, serving: "asyncio.Task[None]") -> None:
    server.should_exit = True
    server.force_exit = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS_TO_CLOSE):
            await asyncio.wait({serving})
    if not serving.done():
        server.force_exit = True
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


async def _until_death(died: Callable[[], bool]) -> None:
    while not died():  # noqa: ASYNC110  # vLLM tells nobody when it happens
        await asyncio.sleep(_BETWEEN_LOOKS)


def _config(app: FastAPI, args: argparse.Namespace) -> uvicorn.Config:
    log_config = get_uvicorn_log_config(args) or LOGGING_CONFIG
    if args.log_config_file is None:  # else the operator has said how it is to be
        log_config = logs.of_http(log_config)
    config = uvicorn.Config(
        app,
        http=Connection,
        host=args.host,
        port=args.port,
        log_level=args.uvicorn_log_level,
        access_log=not args.disable_uvicorn_access_log,
        timeout_keep_alive=int(os.environ.get("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", _SECONDS_BETWEEN_REQUESTS)),
        ssl_keyfile=args.ssl_keyfile,
        ssl_certfile=args.ssl_certfile,
        ssl_ca_certs=args.ssl_ca_certs,
        ssl_cert_reqs=args.ssl_cert_reqs,
        ssl_ciphers=args.ssl_ciphers,
        log_config=log_config,
    )
    config.load()
    config.h11_max_incomplete_event_size = args.h11_max_incomplete_event_size or _MOST_HEADER_BYTES
    config.h11_max_header_count = args.h11_max_header_count or _MOST_HEADERS  # type: ignore[attr-defined]
    return config


def _certificate_refresher(config: uvicorn.Config, args: argparse.Namespace) -> Any:
    if not args.enable_ssl_refresh:
        return None
    return SSLCertRefresher(
        ssl_context=config.ssl,
        key_path=args.ssl_keyfile,
        cert_path=args.ssl_certfile,
        ca_path=args.ssl_ca_certs,
    )
