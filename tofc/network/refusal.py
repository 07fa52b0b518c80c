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
_HUNG_UP = "hung up"


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
            return _certificate_wanted(url)
    hung_up = isinstance(error, (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError))
    if hung_up and urlsplit(url).scheme == "http" and _handshake(url) is not None:
        return UserError(f"the edge {url} speaks TLS alone: write https:// in place of http://")
    # With a request on its way the alert that says why may be lost: a silent handshake hears it.
    if hung_up and urlsplit(url).scheme == "https":
        said = _handshake(url) or ""
        if said == _HUNG_UP or "CERTIFICATE" in said:
            return _certificate_wanted(url)
    return None


def _certificate_wanted(url: str) -> UserError:
    return UserError(
        f"the edge {url} asks for a certificate of this device: --certificate FILE (certificate= in "
        "Python), with its key in the same file"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _handshake(url: str) -> str | None:
    """What is said behind a handshake there in which nothing is shown and nothing asked; None without TLS.

    Whose certificate the other side shows does not matter.
    """
    parts = urlsplit(url)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    address = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    with (
        contextlib.suppress(OSError),
        socket.create_connection(address, _HANDSHAKE_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=parts.hostname) as secure,
    ):
        # A server that waits for a request says nothing; one that misses a certificate may close wordlessly.
        try:
            return "" if secure.recv(1) else _HUNG_UP
        except TimeoutError:
            return ""
        except ssl.SSLEOFError:
            return _HUNG_UP
        except ssl.SSLError as error:
            return str(error.reason)
        except OSError:
            return _HUNG_UP
    return None
