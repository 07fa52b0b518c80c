"""A shaped uplink in front of a real server: a TCP proxy that holds bytes back as a link would."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from eval.latency.link import Link
from eval.serving.proxy import LoopbackProxy


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
