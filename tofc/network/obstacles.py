"""What stands between here and a server, and what whoever gave the address can put right about it.

Proxies, as environment variables and the system name them; certificates and protocols that fail now and will
fail again.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

from tofc.errors import UserError

_HANDSHAKE_SECONDS = 2.0
_HUNG_UP = "hung up"
_SCHEMES = ("http", "https", "socks5", "socks5h")


def proxy_for(scheme: str, host: str) -> str | None:
    """The proxy's URL for requests to `host` by "http" or "https"; None where none is meant.

    NO_PROXY names hosts, domains with all that is below them, addresses and networks (10.0.0.0/8). Raises
    UserError that names the variable, for a proxy that cannot be used.
    """
    given = urllib.request.getproxies()
    found = given.get(scheme) or given.get("all")
    if not found or _is_spared(host.strip("[]").lower(), given.get("no", "")):
        return None
    url = found if "://" in found else f"http://{found}"
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise UserError(
            f"{_variable(found)} is {found!r}, which is no proxy; give one such as http://proxy:3128 or "
            f"socks5://proxy:1080, or list {host} in NO_PROXY"
        )
    return url


def unusable(url: str, host: str, library: str) -> UserError:
    """A proxy that takes a library that is not installed."""
    return UserError(
        f"{_variable(url)} is {url!r}, which takes a library: pip install {library}; or list {host} in "
        "NO_PROXY"
    )


def _is_spared(host: str, no_proxy: str) -> bool:
    address = _address(host)
    for entry in (word.strip().lower() for word in no_proxy.split(",")):
        name = entry.removeprefix("*").strip("[]")
        if entry == "*":
            return True
        if not name:
            continue
        if address is not None:
            try:
                if address in ipaddress.ip_network(name, strict=False):
                    return True
            except ValueError:
                pass  # a name, which no address is below
        if host == name.lstrip(".") or host.endswith(f".{name.lstrip('.')}"):
            return True
    return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _variable(value: str) -> str:
    """The name of the environment variable that says so."""
    named = (name for name, said in os.environ.items() if name.lower().endswith("_proxy") and said in value)
    return next(named, "the system's proxy")


def refusal(error: BaseException, url: str) -> UserError | None:
    """What is wrong with an address, its certificate or its protocol; None where another try may succeed."""
    for cause in causes(error):
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


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that led to it."""
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
