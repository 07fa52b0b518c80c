"""A shaped uplink in front of a real server: a TCP proxy that holds bytes back as a link would."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from types import TracebackType

from eval.latency.link import Link


class ShapedProxy:
    """Forwards connections to a server on this machine; what the clients send is shaped, answers are not.

    Packets of all connections leave one after another at the rate of `link` and arrive half a round trip
    later; answers take the other half. A new connection waits one round trip for its handshake. `link` may
    be replaced at any time. Losses are not made here.
    """

    def __init__(self, port: int, link: Link) -> None:
        self.link, self.sent = link, 0
        self._target = port
        self._free = 0.0  # when the wire has sent all that came before
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> ShapedProxy:
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
        opened = time.monotonic() + self.link.round_trip  # the handshake
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        tasks = [
            asyncio.ensure_future(self._forward(reader, far_writer, opened)),
            asyncio.ensure_future(self._return(far_reader, writer)),
        ]
        try:
            await asyncio.gather(*tasks)
        except (OSError, asyncio.CancelledError):
            pass  # one end closed, or the proxy ends
        finally:
            for task in tasks:
                task.cancel()
            for end in (writer, far_writer):
                end.transport.abort()

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
