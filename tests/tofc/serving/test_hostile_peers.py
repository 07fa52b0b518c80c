"""Peers that only take up places: slow, half open, never reading, leaving; everybody else is answered."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

import tofc
from eval.serving.process import Server, start_server
from tests.tofc.serving.asking import message, url_of
from tofc.drafting.remote import _question, vocabulary_tag
from tofc.language.sampling import GREEDY

KEY = "0123456789abcdef0123"
HEADERS = {"authorization": f"Bearer {KEY}"}
LIMITS = """
connections: 8
sockets: 48
sockets_each: 40
header_seconds: 1
send_seconds: 1
drafted_idle: 2
drafted_positions: 800
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With small limits and a key; nobody reads its log until it has ended."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "limits.yaml").write_text(LIMITS)
    options = ("--limits", str(folder / "limits.yaml"), "--threads", "1")
    found = start_server(folder, *options, output=subprocess.PIPE, TOFC_API_KEYS=f"me:{KEY}")
    yield found
    found.process.kill()
    found.process.communicate()


def answers(server: Server, asked: list[tuple[bytes, str]]) -> bool:
    packet, question = asked[0]
    content = {"model": "default", "messages": message(question, url_of(packet))}
    given = httpx.post(f"{server.url}/v1/chat/completions", json=content, headers=HEADERS, timeout=60)
    return given.status_code == 200


def figure(server: Server, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics", headers=HEADERS, timeout=60).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def raw(server: Server, data: bytes, stack: ExitStack) -> socket.socket:
    made = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
    made.sendall(data)
    return made


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def status(connection: socket.socket) -> int:
    return int(connection.recv(4096).split()[1])


def test_strangers_bodies_are_not_read_and_take_no_place(server: Server, asked) -> None:
    slow = b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n"
    with ExitStack() as stack:
        assert [status(raw(server, slow, stack)) for _ in range(12)] == [405] * 12
        guarded = raw(server, slow.replace(b"/health", b"/v1/chat/completions"), stack)
        assert status(guarded) == 401
        assert answers(server, asked)


def test_half_open_connections_give_way(server: Server, asked) -> None:
    """More than there may be, with a part of a header, or nothing at all."""
    with ExitStack() as stack:
        for number in range(80):
            raw(server, b"GET /health HT" if number % 2 else b"", stack)
        assert answers(server, asked)


def test_a_header_that_does_not_come_is_not_waited_for(server: Server) -> None:
    with ExitStack() as stack:
        silent, begun = raw(server, b"", stack), raw(server, b"GET /health HTTP/1.1\r\nHost:", stack)
        for connection in (silent, begun):
            assert is_closed(connection)


def test_headers_have_a_size(server: Server) -> None:
    with ExitStack() as stack:
        connection = raw(server, b"GET /health HTTP/1.1\r\nx: " + b"x" * (200 << 10), stack)
        with contextlib.suppress(ConnectionResetError):  # it was told while it was still sending
            assert status(connection) in (400, 431)


def test_who_reads_nothing_is_cut(server: Server, asked) -> None:
    with ExitStack() as stack:
        for _ in range(12):
            raw(server, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 400, stack)
        assert answers(server, asked)
        wait_for(lambda: figure(server, "tofc_under_way") == 1)


def receive_all(connection: ClientConnection) -> None:
    while True:
        connection.recv(timeout=60)


def send_for_ever(connection: socket.socket, data: bytes) -> None:
    while True:
        connection.sendall(data)


def drafted(server: Server, stack: ExitStack) -> ClientConnection:
    return stack.enter_context(
        connect(f"ws://127.0.0.1:{server.port}/v1/answers", additional_headers=HEADERS, compression=None)
    )


@pytest.fixture
def question(edge: tofc.Edge, asked) -> str:
    """What opens an answer about a large packet."""
    told = {"draft": "e1", "draft_parameters": 1, "vocabulary": vocabulary_tag(edge)}
    packet = max((packet for packet, _ in asked), key=len)
    return json.dumps(_question("default", packet, "Describe the picture.", GREEDY, 100) | told)


def test_a_device_that_pings_and_never_reads_is_cut(server: Server) -> None:
    ping = b"\x89\xfd" + bytes(4) + b"x" * 125  # masked with zeros
    with ExitStack() as stack:
        upgrade = (
            b"GET /v1/answers HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Authorization: Bearer " + KEY.encode() + b"\r\n\r\n"
        )
        deaf = stack.enter_context(socket.socket())
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", server.port))
        deaf.sendall(upgrade)
        deaf.settimeout(30)
        with pytest.raises(
            OSError, match=r"reset|pipe|timed out"
        ):  # its pongs fill all that lies between, then it is cut
            send_for_ever(deaf, ping * 500)
        wait_for(lambda: figure(server, "tofc_under_way") == 1)
        assert figure(server, "tofc_drafted_answers") == 0


def test_memory_of_answers_has_a_budget(server: Server, question: str) -> None:
    with ExitStack() as stack:
        opened = []
        for _ in range(2):
            opened.append(drafted(server, stack))
            opened[-1].send(question)
            assert "exit" in json.loads(opened[-1].recv(timeout=60))
        third = drafted(server, stack)
        third.send(question)
        refused = json.loads(third.recv(timeout=60))
        assert (refused["status"], refused["error"]["code"]) == (503, "unavailable")
        assert refused["retry_after"] > 0
        opened[0].close()
        wait_for(lambda: figure(server, "tofc_drafted_answers") == 1)
        fourth = drafted(server, stack)
        fourth.send(question)
        assert "exit" in json.loads(fourth.recv(timeout=60))
        greedy = drafted(server, stack)
        greedy.send(
            question.replace('"max_tokens": 100', '"max_tokens": 512').replace("Describe", "x " * 900)
        )
        assert json.loads(greedy.recv(timeout=60))["status"] == 400


def test_devices_that_leave_are_forgotten(server: Server, question: str) -> None:
    """In the middle of what is computed for them, while they wait for their turn, or at rest."""
    for _ in range(3):
        with ExitStack() as stack:
            for connection in [drafted(server, stack) for _ in range(6)]:
                connection.send(question)
        wait_for(lambda: figure(server, "tofc_drafted_answers") == 0)
    wait_for(lambda: figure(server, "tofc_under_way") == 1)


def test_a_log_that_nobody_reads_holds_up_nobody(server: Server) -> None:
    """Some 600 lines fill the pipes between the server and who does not read it."""
    with httpx.Client(headers=HEADERS, timeout=60) as client:
        for _ in range(1000):
            assert client.get(f"{server.url}/v1/models").status_code == 200


def test_sigterm_ends_what_devices_draft(server: Server, question: str) -> None:
    """The last test of this server; its log holds no fault."""
    with ExitStack() as stack:
        connections: list[Any] = [drafted(server, stack) for _ in range(4)]
        for connection in connections:
            connection.send(question)
        connections[0].recv(timeout=60)
        server.process.terminate()
        for connection in connections:
            with pytest.raises(ConnectionClosed):
                receive_all(connection)
    _, log = server.process.communicate(timeout=60)
    assert server.process.returncode in (0, -15)
    lines = [json.loads(line) for line in log.decode().splitlines()]
    assert sum(line["event"] == "request" for line in lines) > 1000
    assert not [line for line in lines if line["level"] == "error" or "trace" in line]
