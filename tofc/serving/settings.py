"""What an edge server allows, how it listens, and which API keys it knows."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from tofc.errors import ConfigError, UserError
from tofc.serving.errors import not_now, wrong

KEYS_VARIABLE = "TOFC_API_KEYS"
_SHORTEST = 16


class Keys:
    """The keys that may ask, each with a name for the log; without any, everybody may.

    Only digests are held, so that a comparison takes the same time for every key of every length.
    """

    def __init__(self, entries: Iterable[str] = (), shared: Path | None = None) -> None:
        self.shared = shared  # the file, where everybody on this machine may read it
        self._digests: dict[str, bytes] = {}
        for number, entry in enumerate(entries, 1):
            name, _, key = entry.rpartition(":")
            if len(key) < _SHORTEST or not key.isascii() or any(c.isspace() for c in key):
                raise UserError(
                    f"API key {number} is no key: give at least {_SHORTEST} characters without spaces, as "
                    "`openssl rand -hex 24` prints them, with a name in front if you like (camera:KEY)"
                )
            name = name or f"key{number}"
            if name in self._digests:
                raise UserError(f"two API keys are called {name!r}; give each a name of its own")
            self._digests[name] = _digest(key)

    def __len__(self) -> int:
        return len(self._digests)

    @classmethod
    def read(cls, file: Path | None) -> Keys:
        """From `file`, one a line (# begins a comment), or TOFC_API_KEYS, separated by commas.

        Raises UserError where either is there and holds no key.
        """
        if file is None:
            given = os.environ.get(KEYS_VARIABLE)
            entries = [entry.strip() for entry in (given or "").split(",") if entry.strip()]
            if given is not None and not entries:
                raise UserError(
                    f"{KEYS_VARIABLE} is set and holds no API key; give keys separated by commas, or unset it"
                )
            return cls(entries)
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
            is_shared = os.name == "posix" and file.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the API keys in {file} cannot be read: {error}") from None
        entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not entries:
            raise UserError(f"{file} holds no API key; write one on each line, or leave --api-keys out")
        return cls(entries, file if is_shared else None)

    def name_of(self, authorization: str | None) -> str | None:
        """Whose key an `Authorization` header carries; None where it carries none of ours."""
        if not self._digests:
            return "anyone"
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip() if scheme.lower() == "bearer" else "")
        found = None
        for name, digest in self._digests.items():  # all of them, always
            if hmac.compare_digest(digest, given):
                found = name
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


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


class PositionBudget:
    """At most `most` positions whose keys, values and states are held at a time; for several threads."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken = 0
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, positions: int) -> Iterator[None]:
        """So many are held inside; ApiError 503 where others hold too many, 400 where they never fit."""
        if positions > self.most:
            raise wrong(
                f"{positions} positions of prompt and answer; at most {self.most} are held for answers "
                "that devices draft: send fewer visual tokens, or ask without draft",
                "messages",
            )
        with self._lock:
            if self._taken + positions > self.most:
                raise not_now("answers that are open hold all the memory there is for them; try again later")
            self._taken += positions
        try:
            yield
        finally:
            with self._lock:
                self._taken -= positions


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
