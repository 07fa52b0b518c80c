"""Why a connection that fails will fail again: what whoever gave the address can put right."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

from tofc.errors import UserError

_HANDSHAKE_SECONDS = 2.0


def refusal(error: BaseException, url: str) -> UserError | None:
    """What is wrong with an address, its certificate or its protocol; None where another try may succeed."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return UserError(
                f"the edge {url} shows a certificate that is not trusted here ({cause.verify_message}): give "
                "the file of the authority that signed it, --ca FILE (ca= in Python)"
            )
        if isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
            return UserError(f"the edge {url} does not speak TLS: write http:// in place of https://")
        if isinstance(cause, ssl.SSLError) and "CERTIFICATE" in str(cause.reason):
            return UserError(
                f"the edge {url} asks for a certificate of this device: --certificate FILE (certificate= in "
                "Python), with its key in the same file"
            )
    hung_up = isinstance(error, (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError))
    if hung_up and urlsplit(url).scheme == "http" and _speaks_tls(url):
        return UserError(f"the edge {url} speaks TLS alone: write https:// in place of http://")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _speaks_tls(url: str) -> bool:
    """Whether a handshake begins there; whose certificate that is does not matter."""
    parts = urlsplit(url)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError):
        address = parts.hostname or "", parts.port or 80
        with (
            socket.create_connection(address, _HANDSHAKE_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname),
        ):
            return True
    return False
