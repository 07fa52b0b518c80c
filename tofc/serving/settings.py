"""What an edge server allows, and how it listens."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, fields
from pathlib import Path

from tofc.errors import ConfigError, UserError


@dataclass(frozen=True)
class Limits:
    """Bounds that hold before any work is done for a request; each is above 0.

    body_bytes: a request's body. pictures, visual_tokens and tiles: of a request, over all its messages, with
    tiles of 1 for each base picture. pixels: of an ordinary picture, before it is decoded. text_chars: all
    text. new_tokens: what `max_tokens` may ask for. queue: requests that wait; one more gets 429. batch:
    sequences that are decoded together. kept_positions: of prompts' beginnings, kept for further questions
    about the same packets, for each member. connections: requests under way at all; one more gets 503.
    sockets: connections that are open, requests on them or not, sockets_each from one address; beyond, those
    that wait for nothing are closed. deadline: seconds from the whole request to the whole answer;
    image_deadline: the same where ordinary pictures are asked about, which go through this machine's vision
    tower. header_seconds, body_seconds: for these to arrive. send_seconds: for what is sent to be read.
    remembered: answers kept for repeated idempotency keys, each `remembered_seconds`. drafted: answers that
    devices draft, at a time, with `drafted_positions` of prompt and answer among them; each is given up where
    nothing comes for `drafted_idle` seconds.
    """

    body_bytes: int = 8 << 20
    pictures: int = 8
    visual_tokens: int = 8192
    tiles: int = 40
    pixels: int = 25_000_000
    text_chars: int = 32_000
    new_tokens: int = 512
    queue: int = 256
    batch: int = 16
    kept_positions: int = 8192
    connections: int = 512
    sockets: int = 1024
    sockets_each: int = 768
    deadline: float = 30.0
    image_deadline: float = 300.0
    header_seconds: float = 10.0
    body_seconds: float = 20.0
    send_seconds: float = 20.0
    remembered: int = 4096
    remembered_seconds: float = 600.0
    drafted: int = 64
    drafted_positions: int = 32_768
    drafted_idle: float = 60.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not value > 0:
                raise ConfigError(f"limit {entry.name} is {value}; give a number above 0")

    @property
    def longest(self) -> float:
        """Seconds that any answer may take."""
        return max(self.deadline, self.image_deadline)


@dataclass(frozen=True)
class Listen:
    """Where a server listens, and with which certificate.

    With `tls_clients`, a file of certificate authorities, only clients with a certificate of theirs get in.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_clients: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise UserError(f"port is {self.port}; give one up to 65535, or 0 for any that is free")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise UserError("TLS needs both: --tls-cert FILE and --tls-key FILE")
        if self.tls_clients is not None and self.tls_certificate is None:
            raise UserError("--tls-clients needs a certificate of the server's own: --tls-cert and --tls-key")
        for file in (self.tls_certificate, self.tls_key, self.tls_clients):
            if file is not None and not file.is_file():
                raise UserError(f"{file} does not exist; give a file in PEM format")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether an address, or a name for one, is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
