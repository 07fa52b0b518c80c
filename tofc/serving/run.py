"""`tofc serve`: warms a model up, and listens until it is told to stop.

A connection costs a descriptor before a byte of a request is there, so they are bounded where they are
accepted. One that sends no whole header, or reads nothing of what it is sent, is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h11
import torch
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tofc.errors import UserError
from tofc.serving.models import ServedModels
from tofc.serving.server import build_app
from tofc.serving.settings import Keys, Limits, Listen
from tofc.serving.telemetry import log, write_json_lines
from tofc.serving.verification import Upstream

BACKLOG = 64  # accepted in one turn of the event loop
_OTHER_FILES = 64  # descriptors for everything else
_LOOK_SECONDS = 0.5
_QUEUED = 1024  # connections that the system keeps until they are accepted


def serve(
    models: ServedModels,
    listen: Listen,
    limits: Limits,
    keys: Keys,
    threads: int | None,
    upstream: Upstream | None,
    listener: Listener,
) -> None:
    """Answers requests until SIGTERM or SIGINT, then what is under way, and returns.

    `threads` is how many cores one pass of the model uses; None for torch's choice. `upstream` verifies what
    is verified here. `listener` is what `bound` gave for `listen`.
    """
    get_ready(models, threads, keys)
    if not len(keys) and not listen.is_loopback:
        log("no API keys: anybody who reaches this address is answered", host=listen.host)
    config = uvicorn.Config(
        build_app(models, limits, keys, upstream),
        http="h11",
        loop="asyncio",  # which accepts through the listener
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=listen.tls_certificate,
        ssl_keyfile=None if listen.tls_key is None else str(listen.tls_key),
        ssl_ca_certs=None if listen.tls_clients is None else str(listen.tls_clients),
        ssl_cert_reqs=0 if listen.tls_clients is None else 2,  # ssl.CERT_NONE, ssl.CERT_REQUIRED
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(limits.longest) + 5,
        backlog=BACKLOG,
        h11_max_incomplete_event_size=64 << 10,
        ws="websockets-sansio",
        ws_max_size=limits.body_bytes,
        ws_per_message_deflate=False,  # rounds are a few bytes each
    )
    try:
        LimitedServer(config, listener, limits).run()
    except OSError as error:  # a certificate that is none
        raise UserError(f"the server cannot start: {error}") from error


def get_ready(models: ServedModels, threads: int | None, keys: Keys) -> None:
    """Settles threads and logs, warms up and says so: what every process that answers does first."""
    if threads is not None:
        torch.set_num_threads(threads)
    write_json_lines()
    begin = time.monotonic()
    models.warm_up()
    seconds = round(time.monotonic() - begin, 2)
    log("model ready", models=list(models.members), seconds=seconds, keys=len(keys))
    if keys.shared is not None:
        said = "everybody on this machine may read the API keys"
        log(said, logging.WARNING, file=str(keys.shared), mend="chmod 600")


@dataclass(eq=False)
class _Open:
    """An accepted connection; `is_idle` says whether nothing is being answered on it."""

    socket: socket.socket
    address: str
    is_idle: Callable[[], bool] = field(default=lambda: True)  # until its protocol is there: TLS is agreed on


class Listener(socket.socket):
    """A listening socket with at most `most` connections open, `most_each` of them from one address.

    Where there are as many, the oldest that waits for nothing gives way to a new one; where all are busy, or
    the address has its share, the new one is closed.
    """

    def __init__(self, family: int, most: int, most_each: int) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._most, self._most_each = most, most_each
        self._open: dict[int, _Open] = {}  # by descriptor, the oldest first

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that may stay; ConnectionAbortedError for one that may not."""
        accepted, address = super().accept()
        self._open.pop(accepted.fileno(), None)
        host = str(address[0])
        if not self._has_room(host):
            accepted.close()
            raise ConnectionAbortedError(f"too many connections, or too many from {host}")
        self._open[accepted.fileno()] = _Open(accepted, host)
        return accepted, address

    def protocol_made(self, descriptor: int, is_idle: Callable[[], bool]) -> None:
        """Connection `descriptor` has a protocol, which knows whether it is idle."""
        if (found := self._open.get(descriptor)) is not None:
            found.is_idle = is_idle

    def _has_room(self, host: str) -> bool:
        if len(self._open) < min(self._most, self._most_each):
            return True
        self._forget_closed()
        each = Counter(one.address for one in self._open.values())
        if each[host] >= self._most_each:
            return self._close_oldest(lambda one: one.address == host)
        return len(self._open) < self._most or self._close_oldest(lambda one: True)

    def _forget_closed(self) -> None:
        self._open = {number: one for number, one in self._open.items() if one.socket.fileno() >= 0}

    def _close_oldest(self, goes: Callable[[_Open], bool]) -> bool:
        for number, one in self._open.items():
            if goes(one) and one.is_idle():
                del self._open[number]
                with contextlib.suppress(OSError):  # it has just gone by itself
                    one.socket.shutdown(socket.SHUT_RDWR)  # its transport sees the end, and closes it
                return True
        return False


def bound(listen: Listen, limits: Limits) -> Listener:
    """A socket that has the address and does not listen yet; UserError for an address that is none, or taken.

    It takes `limits.sockets` connections, or fewer where the process may not have so many files open; its
    limit is raised as far as the system lets it.
    """
    host, most = listen.host, limits.sockets
    try:
        family, _, _, _, address = socket.getaddrinfo(host, listen.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(
            f"{host!r} is no address here ({error}); give one such as 127.0.0.1 or 0.0.0.0"
        ) from None
    most = min(most, _descriptors(most + BACKLOG + _OTHER_FILES) - BACKLOG - _OTHER_FILES)
    found = Listener(family, max(1, most), limits.sockets_each)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
    except OSError as error:
        found.close()
        raise UserError(
            f"cannot listen at {host}, port {listen.port}: {error.strerror}; choose another --port, or 0 for "
            "any"
        ) from None
    return found


def _descriptors(wanted: int) -> int:
    """Files that this process may have open, after raising its own limit to what is wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return raised


class LimitedServer(uvicorn.Server):
    """uvicorn's, on a `Listener`; it cuts connections whose peer only takes up their places.

    A peer has `header_seconds` for the header of a request, and `send_seconds` to read what it is sent.
    """

    def __init__(self, config: uvicorn.Config, listener: Listener, limits: Limits) -> None:
        config.http = _protocol(listener)
        super().__init__(config)
        self._listener, self._limits = listener, limits

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until a signal says to stop."""
        super().run([self._listener] if sockets is None else sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and begins to look after the connections."""
        await super().startup(sockets)
        self._listener.listen(_QUEUED)  # asyncio has one number for this and for how many it accepts at once
        host, port, *_ = self._listener.getsockname()
        log("listening", host=host, port=port)
        self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        stuck: dict[Any, tuple[object, float]] = {}  # what each connection waits for, and since when
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now, before, stuck = time.monotonic(), stuck, {}
            for one in list(self.server_state.connections):
                limit, what = self._waits(one)
                if what is None:
                    continue
                same, since = before.get(one, (what, now))
                stuck[one] = (what, since if same is what else now)
                if now - stuck[one][1] > limit:
                    one.transport.abort()

    def _waits(self, protocol: Any) -> tuple[float, object]:
        """How long a connection may stay as it is, and what tells this state from the next; None for ever."""
        if protocol.transport.get_write_buffer_size():
            return self._limits.send_seconds, protocol
        if isinstance(protocol, H11Protocol) and _is_idle(protocol):
            # Between two requests uvicorn's own limit holds; but not once a part of the next is there.
            partly = protocol.conn.trailing_data[0] or protocol.conn.their_state is h11.SEND_BODY
            if protocol.cycle is None or partly:
                return self._limits.header_seconds, protocol.cycle or self
        return 0.0, None


def _protocol(listener: Listener) -> type[H11Protocol]:
    class Http(H11Protocol):
        """Tells the listener whether a connection waits for anything."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._tell(lambda: _is_idle(self))

        def handle_websocket_upgrade(self, event: h11.Request) -> None:
            self._tell(lambda: False)
            super().handle_websocket_upgrade(event)

        def _tell(self, is_idle: Callable[[], bool]) -> None:
            listener.protocol_made(self.transport.get_extra_info("socket").fileno(), is_idle)

    return Http


def _is_idle(protocol: H11Protocol) -> bool:
    return protocol.cycle is None or protocol.cycle.response_complete
