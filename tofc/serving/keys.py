"""API keys: from a file or the environment, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from tofc.errors import UserError

VARIABLE = "TOFC_API_KEYS"
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
            given = os.environ.get(VARIABLE)
            entries = [entry.strip() for entry in (given or "").split(",") if entry.strip()]
            if given is not None and not entries:
                raise UserError(
                    f"{VARIABLE} is set and holds no API key; give keys separated by commas, or unset it"
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
