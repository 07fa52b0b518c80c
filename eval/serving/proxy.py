"""TCP proxies on this machine in front of a server: what a link does to connections, made on purpose.

One holds bytes back as a link of a given rate and round trip would.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from eval.latency.link import Link


class LoopbackProxy:
    """Takes connections for the server at `port` here, on a thread; `port` and `url` are its own."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        begun = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._connect, "127.0.0.1", 0), self._loop
        )
        self._server = begun.result()
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async def stop() -> None:
            self._server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        tasks = [asyncio.ensure_future(one) for one in self._ways(reader, writer, far_reader, far_writer)]
        try:
            await asyncio.gather(*tasks)
        except (OSError, asyncio.CancelledError):
            pass  # one end closed, or the proxy ends
        finally:
            for task in tasks:
                task.cancel()
            for end in (writer, far_writer):
                end.transport.abort()

    def _ways(self, reader: Any, writer: Any, far_reader: Any, far_writer: Any) -> tuple[Any, Any]:
        """What carries bytes to the server, and back; both ends are cut when one of them raises OSError."""
        raise NotImplementedError  # each kind of fault has its own


@dataclass
class _Way:
    """What became of a connection."""

    fault: str = ""


class FaultyProxy(LoopbackProxy):
    """Breaks connections: of what clients send at a time, a `share` meets with one of `FAULTS`.

    `seed` makes the choices repeatable, as far as those of the clients are; `faults` counts them.
    """

    # Cut in the middle of what is sent, or of the answer; held up; dead without a word; byte by byte.
    FAULTS = ("cut", "cut answer", "delay", "half-open", "drip")

    def __init__(self, port: int, share: float, seed: int = 0) -> None:
        super().__init__(port)
        self._share, self._chance = share, random.Random(seed)
        self.faults: Counter[str] = Counter()

    def _ways(self, reader: Any, writer: Any, far_reader: Any, far_writer: Any) -> tuple[Any, Any]:
        way = _Way()
        return self._up(reader, far_writer, way), self._down(far_reader, writer, way)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Way) -> None:
        while data := await reader.read(1 << 16):
            if self._chance.random() < self._share:
                way.fault = self._chance.choice(self.FAULTS)
                self.faults[way.fault] += 1
            if way.fault == "cut":
                writer.write(data[: self._chance.randrange(len(data))])
                await writer.drain()
                break
            if way.fault == "delay":
                await asyncio.sleep(self._chance.random())
                way.fault = ""
            writer.write(data)
        raise ConnectionResetError

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Way) -> None:
        while data := await reader.read(1 << 16):
            if way.fault == "half-open":
                continue
            if way.fault == "cut answer":
                writer.write(data[: self._chance.randrange(len(data))])
                await writer.drain()
                break
            if way.fault == "drip":
                for byte in data:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.05)
                continue
            writer.write(data)
        if way.fault == "half-open":
            await asyncio.Event().wait()
        raise ConnectionResetError


class ShapedProxy(LoopbackProxy):
    """Forwards connections to a server on this machine; what the clients send is shaped, answers are not.

    Packets of all connections leave one after another at the rate of `link` and arrive half a round trip
    later; answers take the other half. A new connection waits one round trip for its handshake. `link` may
    be replaced at any time. Losses are not made here.
    """

    def __init__(self, port: int, link: Link) -> None:
        super().__init__(port)
        self.link, self.sent = link, 0
        self._free = 0.0  # when the wire has sent all that came before

    def _ways(self, reader: Any, writer: Any, far_reader: Any, far_writer: Any) -> tuple[Any, Any]:
        opened = time.monotonic() + self.link.round_trip  # the handshake
        return self._forward(reader, far_writer, opened), self._return(far_reader, writer)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, opened: float
    ) -> None:
        arrivals: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                when, data = await arrivals.get()
                await asyncio.sleep(max(0.0, when - time.monotonic()))
                if not data:
                    with contextlib.suppress(OSError):
                        writer.write_eof()
                    return
                writer.write(data)

        courier = asyncio.ensure_future(deliver())
        try:
            while True:
                data = await reader.read(self.link.packets.payload)
                on_wire = self.link.packets.on_the_wire(len(data))
                self.sent += on_wire
                self._free = max(self._free, opened, time.monotonic()) + self.link.sending(on_wire)
                arrivals.put_nowait((self._free + self.link.round_trip / 2, data))
                if not data:
                    await courier
                    return
        finally:
            courier.cancel()

    async def _return(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await asyncio.sleep(self.link.round_trip / 2)
            writer.write(data)
        raise ConnectionResetError  # the server closed: so does the proxy
