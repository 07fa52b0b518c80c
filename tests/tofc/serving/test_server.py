"""What a server does with clients that are many, slow, gone, unknown or hostile."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest
from PIL import Image

from eval.serving.process import Server
from tests.tofc.serving.asking import message, url_of
from tofc import RemoteEdge, UserError
from tofc.drafting.link import Socket
from tofc.serving.requests import seconds_allowed
from tofc.serving.schema import ChatRequest
from tofc.serving.settings import Limits

CHAT = "/v1/chat/completions"


def body(packet: bytes, question: str, **more: Any) -> dict[str, Any]:
    return {"model": "scenes-tiny", "messages": message(question, url_of(packet)), **more}


def post(server: Server, content: dict[str, Any], **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}{CHAT}", json=content, headers=headers, timeout=60)


def wait_for(condition, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_many_at_once_get_their_own_answers(server, edge, asked) -> None:
    """Different K, short and long answers, streamed and not: all in one batch."""
    expected = {answer_key: a.text for answer_key, a in zip(asked, edge.answer_many(asked), strict=True)}

    def one(index: int) -> bool:
        packet, question = asked[index % len(asked)]
        given = post(server, body(packet, question)).json()
        return bool(given["choices"][0]["message"]["content"] == expected[packet, question])

    before = server.metrics
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(2 * len(asked))))
    after = server.metrics
    rows = after["tofc_batch_rows_sum"] - before["tofc_batch_rows_sum"]
    steps = after["tofc_batch_rows_count"] - before["tofc_batch_rows_count"]
    assert rows / steps > 3, "requests were not answered together"
    assert after["tofc_queued"] == after["tofc_decoding"] == 0


def test_what_is_sent_twice_is_answered_once(server, asked) -> None:
    packet, _ = asked[-1]
    content = body(packet, "Describe the picture.", temperature=1.5)
    before = server.metrics
    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(lambda _: post(server, content, **{"idempotency-key": "a"}).json(), range(4)))
    assert all(one == given[0] for one in given)
    assert post(server, content, **{"idempotency-key": "a"}).json() == given[0]
    after = server.metrics
    assert after["tofc_repeated_total"] - before["tofc_repeated_total"] == 4
    assert after["tofc_generated_tokens_total"] - before["tofc_generated_tokens_total"] == len(
        given[0]["tofc"]["tokens"]
    )
    other = post(server, body(packet, "Is there a bus?"), **{"idempotency-key": "a"})
    assert other.status_code == 409
    assert other.headers["x-should-retry"] == "false"


def test_streams_can_be_repeated_too(server, asked) -> None:
    packet, _ = asked[-1]
    content = body(packet, "Describe the picture.", stream=True)
    first, second = (post(server, content, **{"idempotency-key": "s"}).text for _ in range(2))
    assert first == second
    assert first.endswith("data: [DONE]\n\n")


def longest(server: Server, packet: bytes) -> dict[str, Any]:
    """What to ask for an answer that takes the model so long that one can leave in the middle."""
    tries = [
        body(packet, "Describe the picture.", temperature=2.0, seed=seed, max_tokens=500)
        for seed in range(32)
    ]
    with ThreadPoolExecutor(16) as pool:
        lengths = [len(given.json()["tofc"]["tokens"]) for given in pool.map(partial(post, server), tries)]
    assert max(lengths) >= 40
    return tries[lengths.index(max(lengths))]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_the_work(server, asked, stream: bool) -> None:
    packet, _ = asked[-1]
    content = json.dumps({**longest(server, packet), "stream": stream})
    before = server.metrics
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n{content}".encode())
        wait_for(lambda: server.metrics["tofc_decoding"] == 1)
    wait_for(lambda: server.metrics["tofc_decoding"] == 0)
    after = server.metrics
    name = 'tofc_refused_total{reason="client left"}'
    assert after[name] - before.get(name, 0) == 1
    assert after["tofc_generated_tokens_total"] == before["tofc_generated_tokens_total"]


def test_who_leaves_and_asks_again_by_its_key_is_answered_by_the_same_work(server, asked) -> None:
    packet, _ = asked[-1]
    longer = longest(server, packet)
    content, key = json.dumps(longer), "one-that-came-back"
    before = server.metrics
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIdempotency-Key: {key}\r\n"
        )
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n{content}".encode())
        wait_for(lambda: server.metrics["tofc_decoding"] == 1)
    given = httpx.post(
        f"{server.url}{CHAT}",
        content=content,
        headers={"idempotency-key": key, "content-type": "application/json"},
        timeout=60,
    ).json()
    after = server.metrics
    assert after["tofc_repeated_total"] - before["tofc_repeated_total"] == 1
    new = after["tofc_generated_tokens_total"] - before["tofc_generated_tokens_total"]
    assert new == len(given["tofc"]["tokens"])
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    assert sum(line.get("computes", False) for line in lines if line.get("key") == digest) == 1
    assert key not in server.log.read_text()


def test_a_request_that_breaks_off_is_forgotten(server) -> None:
    before = server.metrics
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode())
        time.sleep(0.2)
    name = 'tofc_refused_total{reason="cut off"}'
    wait_for(lambda: server.metrics.get(name, 0) - before.get(name, 0) == 1)


def test_deadlines_are_kept(server, asked) -> None:
    packet, _ = asked[-1]
    late = post(server, body(packet, "Describe the picture.", deadline_ms=1))
    assert late.status_code == 408
    assert late.headers["x-should-retry"] == "false"
    assert late.json()["error"]["code"] == "deadline_exceeded"
    wait_for(lambda: server.metrics["tofc_decoding"] == 0)


def test_pictures_have_longer_than_packets() -> None:
    """A large vision tower takes minutes on a CPU; a client may still ask for less."""
    request = ChatRequest(**body(b"", "Why?"))
    in_a_hurry = request.model_copy(update={"deadline_ms": 2000})
    limits = Limits(deadline=5, image_deadline=60)
    assert seconds_allowed(request, limits, has_pictures=False) == 5
    assert seconds_allowed(request, limits, has_pictures=True) == limits.longest == 60
    assert seconds_allowed(in_a_hurry, limits, has_pictures=True) == 2
    assert seconds_allowed(request, Limits(deadline=5, image_deadline=1), has_pictures=True) == 5


@pytest.mark.parametrize(
    "extreme", [{"temperature": 1e-40}, {"temperature": 1e-320}, {"temperature": 1, "top_p": 1e-320}]
)
def test_extreme_sampling_is_greedy_and_harms_nobody_beside_it(server, edge, asked, extreme) -> None:
    packet, question = asked[-1]
    contents = [body(packet, question, **(extreme if number % 2 else {})) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        given = [one.json() for one in pool.map(partial(post, server), contents)]
    expected = edge.answer(packet, question).text
    assert [one["choices"][0]["message"]["content"] for one in given] == [expected] * 8


def test_the_log_tells_what_happened_and_nothing_that_was_sent(server, asked) -> None:
    packet, _ = asked[0]
    question = "Is there a zeppelin over Friedrichshafen?"
    given = post(server, body(packet, question), **{"x-request-id": "my-own-id.7"})
    assert given.headers["x-request-id"] == "my-own-id.7"
    forged = post(server, body(packet, question), **{"x-request-id": 'a"b'})
    assert forged.headers["x-request-id"].startswith("req-")
    wait_for(lambda: "my-own-id.7" in server.log.read_text())
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (mine,) = [line for line in lines if line.get("request_id") == "my-own-id.7"]
    assert mine["status"] == 200
    assert mine["visual_tokens"] == 8
    assert mine["packet_bytes"] == len(packet)
    text = server.log.read_text()
    assert "zeppelin" not in text
    assert url_of(packet)[40:60] not in text


def bomb(width: int, height: int) -> bytes:
    """A small PNG that unfolds to width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [6_000, 20_000])
def test_pictures_that_unfold_are_refused_before_they_do(server, side: int) -> None:
    data = bomb(side, side)
    assert len(data) < 100_000
    refused = post(server, {"model": "scenes-tiny", "messages": message("Q?", url_of(data, "image/png"))})
    assert refused.status_code == 400
    assert "megapixels" in refused.json()["error"]["message"]
    assert "--max-pixels" not in refused.text


def test_packets_that_claim_much_are_refused(server, device, scenes) -> None:
    packet = device.encode([image for image, _ in scenes[:2]] * 25, tokens=4)
    refused = post(server, body(bytes(packet), "Q?"))
    assert refused.status_code == 400
    assert "tiles" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[" * 100_000, b'{"model": 1e400}', b"\xff\xfe", b'"' + b"9" * 6000 + b'"', b"9" * 6000,
     b'{"model":"scenes-tiny","messages":[{"role":"user","content":"\\ud800"}]}',
     b'{"model":"scenes-tiny","messages":[{"role":"user","content":"a\\u0000b <|im_end|>"}],"max_tokens":1}'],
)  # fmt: skip
def test_hostile_bodies_are_the_clients_fault(server, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    given = httpx.post(f"{server.url}{CHAT}", content=content, headers=headers, timeout=60)
    assert given.status_code in (200, 400, 422), given.text
    if given.status_code != 200:
        assert given.json()["error"]["message"]


def test_unknown_places_and_methods(server) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404),
        ("GET", CHAT, 405),
        ("POST", "/v1/models", 405),
        ("GET", "/docs", 404),
    ):
        given = httpx.request(method, f"{server.url}{path}")
        assert given.status_code == status
        assert given.json()["error"]["code"]


KEY = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def strict(serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that asks for keys, over TLS, takes only packets and little at a time."""
    folder = tmp_path_factory.mktemp("strict")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, capture_output=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (folder / "keys.txt").write_text(f"# who may ask\ncamera:{KEY}\nfedcba9876543210fedc\n")
    (folder / "keys.txt").chmod(0o600)
    files = {"--api-keys": "keys.txt", "--tls-cert": "cert.pem", "--tls-key": "key.pem"}
    options = [word for option, name in files.items() for word in (option, str(folder / name))]
    (folder / "limits.yaml").write_text("body_bytes: 4000\nbatch: 9\n")
    limits = ("--limits", str(folder / "limits.yaml"), "--batch", "1", "--queue", "2", "--packets-only")
    with serve(*limits, *options) as running:
        running.ca = folder / "cert.pem"
        yield running


def strictly(server: Server, content: dict[str, Any], authorization: Any = f"Bearer {KEY}") -> httpx.Response:
    context = ssl.create_default_context(cafile=str(server.ca))
    headers = {"authorization": authorization}
    return httpx.post(f"{server.url}{CHAT}", json=content, headers=headers, timeout=60, verify=context)


def test_overload_is_refused_with_a_time_to_come_back(strict, device, scenes) -> None:
    packet = bytes(device.encode(scenes[0][0], tokens=8, quality=2))
    content = body(packet, "Describe the picture.", temperature=2.0, seed=5, max_tokens=200)
    with ThreadPoolExecutor(12) as pool:
        given = list(pool.map(lambda _: strictly(strict, content), range(12)))
    statuses = [one.status_code for one in given]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 3
    refused = next(one for one in given if one.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"


def test_answers_that_devices_draft_pass_the_same_gate(strict, asked) -> None:
    """Over TLS: a key, a bound on size, errors in words."""
    with RemoteEdge(strict.url, ca=strict.ca, api_key=KEY) as remote:
        with pytest.raises(UserError, match=r"refuses: model: Field required \(400\)"):
            Socket(remote.connection, "/v1/answers", 30).ask("{}", 30)
        with pytest.raises(UserError, match="a question of 5,000 bytes is more than it takes"):
            Socket(remote.connection, "/v1/answers", 30).ask("x" * 5000, 30)
    with RemoteEdge(strict.url, ca=strict.ca) as stranger, pytest.raises(UserError, match="no valid API key"):
        Socket(stranger.connection, "/v1/answers", 30)
    with RemoteEdge(strict.url, api_key=KEY) as trusting, pytest.raises(ConnectionError, match="CERTIFICATE"):
        Socket(trusting.connection, "/v1/answers", 30)


def test_only_keys_get_in(strict, asked) -> None:
    packet, question = asked[0]
    content = body(packet, question)
    short, basic = f"Bearer {KEY[:-1]}", f"Basic {KEY}"
    for authorization in ("", "Bearer", short, basic, "Bearer \u00ff".encode("latin-1")):
        refused = strictly(strict, content, authorization)
        assert refused.status_code == 401, authorization
        assert refused.json()["error"]["type"] == "authentication_error"
    for key in (KEY, "fedcba9876543210fedc"):
        assert strictly(strict, content, f"Bearer {key}").status_code == 200
    context = ssl.create_default_context(cafile=str(strict.ca))
    assert httpx.get(f"{strict.url}/metrics", verify=context).status_code == 401
    assert httpx.get(f"{strict.url}/health", verify=context).text == "alive"
    assert "tofc ask" in httpx.get(strict.url, verify=context).text  # for a person with a browser
    log = strict.log.read_text()
    assert '"client": "camera"' in log
    assert '"client": "key2"' in log
    assert KEY[:8] not in log, "a key stands in the log"


def test_sizes_are_bounded_and_pictures_need_a_tower(strict, asked) -> None:
    packet, _ = asked[0]
    assert strictly(strict, body(packet, "x" * 5000)).status_code == 413
    context = ssl.create_default_context(cafile=str(strict.ca))
    parts, headers = iter([b"x" * 1000] * 50), {"authorization": f"Bearer {KEY}"}
    chunked = httpx.post(f"{strict.url}{CHAT}", content=parts, headers=headers, verify=context)
    assert chunked.status_code == 413
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    url = url_of(picture.getvalue(), "image/png")
    refused = strictly(strict, {"model": "scenes-tiny", "messages": message("Q?", url)})
    assert refused.status_code == 400
    assert "packets alone" in refused.json()["error"]["message"]


def test_certificates_are_checked(strict, asked) -> None:
    with RemoteEdge(strict.url, ca=strict.ca, api_key=KEY) as remote:
        assert remote.answer(*asked[0]).text
    with RemoteEdge(strict.url, retries=0) as stranger, pytest.raises(UserError, match="--ca"):
        stranger.answer(*asked[0])


def test_sigterm_lets_answers_finish(strict, edge, device, scenes) -> None:
    """The last test of this server."""
    packet = bytes(device.encode(scenes[0][0], tokens=8, quality=2))
    given: list[httpx.Response] = []
    content = body(packet, "Describe the picture.")
    thread = threading.Thread(target=lambda: given.append(strictly(strict, content)))
    context = ssl.create_default_context(cafile=str(strict.ca))
    headers = {"authorization": f"Bearer {KEY}"}

    def is_decoding() -> bool:
        text = httpx.get(f"{strict.url}/metrics", verify=context, headers=headers).text
        return "tofc_decoding 1.0" in text

    thread.start()
    wait_for(is_decoding)
    strict.process.terminate()
    thread.join(60)
    expected = edge.answer(packet, "Describe the picture.").text
    assert given[0].json()["choices"][0]["message"]["content"] == expected
    assert strict.process.wait(60) in (0, -signal.SIGTERM)
