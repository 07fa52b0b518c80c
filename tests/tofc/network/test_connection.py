"""A client's deadline holds whatever the server does; proxies are those that the environment means."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eval.serving.process import free_port
from tofc.drafting.link import Socket
from tofc.errors import EdgeUnreachable, UserError
from tofc.network.connection import Connection, Unanswered
from tofc.network.messages import data_url, read_data_url
from tofc.network.obstacles import proxy_for

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
LONG = 60.0  # seconds, in which no test ends


MADE: list[Connection] = []


def connection(url: str, timeout: float = 30.0, retries: int | None = None) -> Connection:
    MADE.append(Connection(url, None, None, None, timeout, 3.0, retries, seed=0))
    return MADE[-1]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Or sockets would be left to the garbage collector, which says so in whatever test it runs in."""
    yield
    while MADE:
        MADE.pop().close()


@contextmanager
def serving(*each: Callable[[socket.socket], None], port: int = 0) -> Iterator[tuple[str, list[bytes]]]:
    """Does the first with the first connection, the last with all others; gives what it was sent."""
    heard: list[bytes] = []
    over = threading.Event()
    with socket.create_server(("127.0.0.1", port)) as listening:
        listening.settimeout(0.05)

        def one(accepted: socket.socket, act: Callable[[socket.socket], None]) -> None:
            with accepted:
                try:
                    heard.append(accepted.recv(65536))
                    act(accepted)
                except OSError:
                    pass  # the client left

        def run() -> None:
            number = 0
            while not over.is_set():
                try:
                    accepted, _ = listening.accept()
                except TimeoutError:
                    continue
                act = each[min(number, len(each) - 1)]
                threading.Thread(target=one, args=(accepted, act), daemon=True).start()
                number += 1

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", heard
        finally:
            over.set()
            thread.join()


def silent(peer: socket.socket) -> None:
    peer.recv(1)


def dripping(head: bytes) -> Callable[[socket.socket], None]:
    def drip(peer: socket.socket) -> None:
        peer.sendall(head)
        until = time.monotonic() + LONG
        while time.monotonic() < until:
            peer.sendall(b"x")
            time.sleep(0.05)

    return drip


def good(peer: socket.socket) -> None:
    peer.sendall(GOOD)


def get(to: Connection) -> int:
    return to.tried(lambda left: to.send("GET", "/", left)[0]).status_code


@pytest.mark.parametrize(
    "act",
    [
        silent,
        dripping(b"HTTP/1.1 200 OK\r\nx-slow: "),
        dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
    ],
    ids=["silent", "header", "body"],
)
def test_the_deadline_is_for_the_whole_answer(act: Callable[[socket.socket], None]) -> None:
    with serving(act) as (url, heard):
        begin = time.monotonic()
        with pytest.raises(EdgeUnreachable, match=r"no whole answer|ReadTimeout"):
            get(connection(url, timeout=1.0))
        assert time.monotonic() - begin < LONG / 2
        assert len(heard) > 1  # a try has a part of it


def test_a_server_that_comes_back_is_waited_for() -> None:
    port = free_port()
    to = connection(f"http://127.0.0.1:{port}")
    got: list[int] = []
    asking = threading.Thread(target=lambda: got.append(get(to)))
    asking.start()
    time.sleep(1.5)  # more than four quick tries take
    with serving(good, port=port):
        asking.join(LONG)
    assert got == [200]


def test_a_dead_connection_costs_a_part_of_the_deadline() -> None:
    with serving(silent, good) as (url, heard):
        assert get(connection(url, timeout=6.0)) == 200
    assert len(heard) == 2


def test_what_no_waiting_mends_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(EdgeUnreachable, match="in 1 tries"):
        get(connection("http://edge.invalid"))


def test_a_socket_that_is_not_read_is_given_up() -> None:
    def upgraded(peer: socket.socket) -> None:
        time.sleep(LONG)

    with serving(upgraded) as (url, _), pytest.raises(Unanswered):
        Socket(connection(url), "/v1/answers", 0.5)


NONE, PROXY = None, "http://proxy:3128"


@pytest.mark.parametrize(
    "no_proxy, host, expected",
    [
        ("localhost,[::1]", "::1", NONE),
        ("localhost,[::1]", "localhost", NONE),
        ("10.0.0.0/8", "10.1.2.3", NONE),
        ("10.0.0.0/8", "11.1.2.3", PROXY),
        ("127.0.0.1", "127.0.0.1", NONE),
        (".example.com", "edge.example.com", NONE),
        ("example.com", "edge.example.com", NONE),
        ("*.example.com", "edge.example.com", NONE),
        ("example.com", "myexample.com", PROXY),
        ("*", "anything", NONE),
        (" , ", "edge", PROXY),
    ],
)
def test_no_proxy_is_read_as_people_write_it(
    no_proxy: str, host: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    assert proxy_for("http", host) == expected


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks://127.0.0.1:9", "ftp://x", "http://"])
def test_a_proxy_that_is_not_meant_disturbs_nobody_and_another_is_named(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(good) as (url, _):
        assert get(connection(url)) == 200
    monkeypatch.delenv("NO_PROXY")
    with pytest.raises(UserError, match=r"ALL_PROXY is .*(pip install|which is no proxy)"):
        connection("http://127.0.0.1:9")


def test_a_key_log_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "none" / "keys"))
    with pytest.raises(UserError, match="SSLKEYLOGFILE"):
        connection("https://127.0.0.1:9")


@pytest.mark.parametrize(
    "url, kind, data",
    [
        ("data:image/png;name=a.png;base64,QUJD", "image/png", b"ABC"),
        ("DATA:IMAGE/PNG;BASE64,QUJD", "image/png", b"ABC"),
        ("data:;base64,QUJD", "", b"ABC"),
        ("data:image/png;charset=utf-8;base64,QU\r\nJD\n", "image/png", b"ABC"),
        ("data:image/png;base64,%2B%2b%2F/", "image/png", b"\xfb\xef\xff"),
        ("data:image/gif,%47IF", "image/gif", b"GIF"),
        (data_url("a/b", bytes(range(256))), "a/b", bytes(range(256))),
    ],
)
def test_data_urls_are_read_as_the_standard_has_them(url: str, kind: str, data: bytes) -> None:
    assert read_data_url(url) == (kind, data)


@pytest.mark.parametrize(
    "url", ["", "data:", "http://a,b", "data:image/png;base64", "data:" + ";a=a" * 10**6 + ","]
)
def test_other_urls_are_none(url: str) -> None:
    assert read_data_url(url) is None
