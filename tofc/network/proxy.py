"""Whether a proxy stands between here and a server, as environment variables and the system say it."""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from urllib.parse import urlsplit

from tofc.errors import UserError

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
