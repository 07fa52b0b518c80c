"""Edges that will never answer as they are asked: who asks is told at once what to put right."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trustme

from tofc import EdgeUnreachable, RemoteEdge, UserError


class Handler(BaseHTTPRequestHandler):
    """Lists no models, to those who have the key."""

    def do_GET(self) -> None:
        good = self.headers.get("authorization") == "Bearer right"
        body = b'{"data": []}' if good else b'{"error": {"message": "this key is not known"}}'
        self.send_response(200 if good else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class QuietServer(HTTPServer):
    """Says nothing of handshakes that fail, which is what is tested."""

    def handle_error(self, *_: object) -> None:
        pass


def listening(tls: ssl.SSLContext | None) -> Iterator[int]:
    server = QuietServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def plain() -> Iterator[int]:
    yield from listening(None)


@pytest.fixture(scope="module")
def secure(authority: trustme.CA) -> Iterator[int]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    yield from listening(context)


def checked(url: str, key: str = "right", **options: object) -> None:
    with RemoteEdge(url, api_key=key, retries=0, **options) as far:  # type: ignore[arg-type]
        far.check()


def test_who_is_trusted_and_has_the_key_is_listed_models(
    plain: int, secure: int, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    checked(f"http://127.0.0.1:{plain}")
    checked(f"https://127.0.0.1:{secure}", ca=tmp_path / "authority.pem")


@pytest.mark.parametrize(
    "scheme, port, key, words",
    [
        ("https", "secure", "right", "--ca FILE"),
        ("http", "secure", "right", "https://"),
        ("https", "plain", "right", "http://"),
        ("http", "plain", "wrong", "TOFC_API_KEY"),
    ],
)
def test_what_will_never_do_is_no_reason_to_fall_back(
    scheme: str, port: str, key: str, words: str, request: pytest.FixtureRequest
) -> None:
    url = f"{scheme}://127.0.0.1:{request.getfixturevalue(port)}"
    with pytest.raises(UserError, match=words) as caught:
        checked(url, key, fallback=lambda: pytest.fail("the device is not asked"))
    assert not isinstance(caught.value, EdgeUnreachable)


def test_an_edge_that_is_down_is_asked_once(plain: int) -> None:
    with RemoteEdge("http://127.0.0.1:9", retries=0) as far, pytest.raises(EdgeUnreachable):
        far.check()
