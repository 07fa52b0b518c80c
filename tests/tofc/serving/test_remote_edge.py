"""The client: the same answers as an edge in the same process, over links and through failures."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

import tofc
from eval.latency.link import Link
from eval.serving.process import Server, free_port
from eval.serving.proxy import ShapedProxy
from tofc import EdgeUnreachable, PacketError, RemoteEdge, UserError
from tofc.cli.app import app
from tofc.serving.link import LinkEstimator


def test_answers_are_those_of_the_edge(server: Server, edge, asked) -> None:
    with RemoteEdge(server.url) as remote:
        assert remote.models()[0] == "scenes-tiny"
        assert remote.answer_many(asked[::3]) == edge.answer_many(asked[::3])
        packet, question = asked[-1]
        assert remote.answer(packet, question, max_new_tokens=4) == edge.answer(
            packet, question, max_new_tokens=4
        )
        answer = remote.answer(tofc.Packet.from_bytes(packet), question)
        assert not answer.fallback
        assert {"queue", "decode", "project", "generate", "server", "link"} <= set(answer.timing)


def test_connections_are_kept(server: Server, asked) -> None:
    with RemoteEdge(server.url) as remote:
        seen = []
        inner = remote.connection.send
        remote.connection.send = lambda *a: seen.append(inner(*a)) or seen[-1]  # type: ignore[method-assign,func-returns-value]
        for _ in range(3):
            remote.answer(*asked[0])
        assert [opened for _, opened in seen] == [True, False, False]


@pytest.mark.parametrize(
    "change, kind, says",
    [
        ({"packet": b"no packet at all"}, PacketError, "checksum"),
        ({"question": " "}, UserError, "asks nothing"),
        ({"exit": "e99"}, UserError, "there are: scenes-tiny"),
        ({"num_beams": 3}, UserError, "num_beams does not travel"),
        ({"max_new_tokens": 10_000}, UserError, "at most 512"),
    ],
)
def test_mistakes_are_the_users(server: Server, asked, change: dict[str, Any], kind: type, says: str) -> None:
    packet, question = asked[0]
    with RemoteEdge(server.url) as remote, pytest.raises(kind, match=says):
        remote.answer(**{"packet": packet, "question": question, **change})


@pytest.mark.parametrize("url", ["edge:8080", "ftp://edge", "http://", "http://edge:port"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UserError, match="the edge's address"):
        RemoteEdge(url)


@contextmanager
def scripted(*statuses: int) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that answers with these statuses (0: it hangs up), then well. Gives url and headers seen."""
    seen: list[dict[str, str]] = []
    good = (
        b'{"choices":[{"message":{"content":"Yes"}}],'
        b'"tofc":{"exit":"full","tokens":[1],"visual_tokens":1,"timing":{"server":0.0}}}'
    )

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            seen.append({k.lower(): v for k, v in self.headers.items()})
            status = statuses[len(seen) - 1] if len(seen) <= len(statuses) else 200
            if status == 0:
                return
            content = good if status == 200 else b'{"error":{"message":"busy","code":"x"}}'
            self.send_response(status)
            self.send_header("retry-after", "0")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


def test_tries_share_one_idempotency_key(asked) -> None:
    key = "secret-secret-secret"
    with scripted(503, 429, 0) as (url, seen), RemoteEdge(url, api_key=key, seed=0) as remote:
        assert remote.answer(*asked[0]).text == "Yes"
        assert remote.answer(*asked[0]).text == "Yes"
    keys = [headers["idempotency-key"] for headers in seen]
    assert len(seen) == 5
    assert len(set(keys[:4])) == 1
    assert keys[4] != keys[0]
    assert {headers["authorization"] for headers in seen} == {f"Bearer {key}"}


def test_what_cannot_succeed_is_not_tried_again(asked) -> None:
    with scripted(400) as (url, seen), RemoteEdge(url) as remote:
        with pytest.raises(UserError, match="busy"):
            remote.answer(*asked[0])
        assert len(seen) == 1


def test_tries_end(asked) -> None:
    with scripted(*[503] * 9) as (url, seen), RemoteEdge(url, retries=2, seed=0) as remote:
        with pytest.raises(EdgeUnreachable, match=r"in 3 tries \(503: busy"):
            remote.answer(*asked[0])
        assert len(seen) == 3


def test_the_device_answers_where_nobody_else_does_and_says_so(edge, asked) -> None:
    packet, question = asked[0]
    url = f"http://127.0.0.1:{free_port()}"
    made: list[tofc.Edge] = []

    def fallback() -> tofc.Edge:
        made.append(edge)
        return edge

    with RemoteEdge(url, retries=1, fallback=fallback, seed=0) as remote:
        for _ in range(2):
            answer = remote.answer(packet, question)
            assert answer == edge.answer(packet, question)
            assert url in answer.fallback
            assert "ConnectError" in answer.fallback
    assert len(made) == 1
    with RemoteEdge(url, retries=0) as alone, pytest.raises(EdgeUnreachable, match="in 1 tries"):
        alone.answer(packet, question)


def test_the_command_line_asks_far_away(server: Server, edge, device, scenes, tmp_path) -> None:
    image, prompts = scenes[0]
    image.save(tmp_path / "street.png")
    ask = ["ask", str(tmp_path / "street.png"), prompts[0], "--json", "--model", "scenes-tiny", "--edge"]
    expected = edge.answer(device.encode(image), prompts[0])
    done = CliRunner().invoke(app, [*ask, server.url])
    given = json.loads(done.stdout)
    assert given["answer"] == expected.text
    assert given["fallback"] == ""
    assert {"vision", "link", "server"} <= set(given["timing"])
    nobody = f"http://127.0.0.1:{free_port()}"
    done = CliRunner().invoke(app, [*ask, nobody])
    assert nobody in json.loads(done.stdout)["fallback"]
    refused = CliRunner().invoke(app, [*ask, nobody, "--no-fallback"])
    assert refused.exit_code == 2
    assert "did not answer in 4 tries" in refused.stderr
    for wrong in (["--deadline-ms", "0"], ["--deadline-ms", "300", "--quality", "4"]):
        assert CliRunner().invoke(app, [*ask, nobody, *wrong]).exit_code == 2


# The link.


def transfers(estimator: LinkEstimator, link: Link, num_bytes: int, count: int) -> None:
    for _ in range(count):
        estimator.see(num_bytes, link.round_trip + link.sending(num_bytes))


def test_an_estimate_follows_the_rate_down_and_up() -> None:
    estimator = LinkEstimator()
    assert estimator.state is None
    assert estimator.packet_bytes(1.0) is None
    estimator.see_round_trip(0.05)
    transfers(estimator, Link(10.0, 0.05), 64_000, 4)
    assert estimator.state.rate == pytest.approx(10e6, rel=0.15)
    transfers(estimator, Link(0.2, 0.05), 1200, 3)
    assert estimator.state.rate == pytest.approx(0.2e6, rel=0.2)
    transfers(estimator, Link(10.0, 0.05), 1200, 3)
    assert estimator.state.rate > 1.2e6, "as much as 1200 bytes within the jitter can tell"
    transfers(estimator, Link(10.0, 0.05), 64_000, 3)
    assert estimator.state.rate == pytest.approx(10e6, rel=0.15)
    assert estimator.state.seconds(125_000) == pytest.approx(0.15, rel=0.2)


def test_small_packets_on_a_fast_link_change_nothing() -> None:
    estimator = LinkEstimator()
    estimator.see_round_trip(0.02)
    transfers(estimator, Link(10.0, 0.02), 64_000, 4)
    before = estimator.state.rate
    for extra in (0.0, 0.004, 0.001):
        estimator.see(500, 0.02 + extra)
    assert estimator.state.rate == before


def test_packets_are_as_large_as_the_time_allows() -> None:
    estimator = LinkEstimator()
    estimator.see_round_trip(0.05)
    transfers(estimator, Link(0.2, 0.05), 4000, 6)
    sizes = [estimator.packet_bytes(seconds) for seconds in (0.01, 0.1, 0.2, 0.4)]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0 < sizes[2]
    on_wire = 4 / 3 * sizes[3] + 700
    assert 0.05 + 8 * on_wire / 0.2e6 == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("transfer", [(0, 1.0), (10, -1.0), (10, float("inf"))])
def test_what_is_no_transfer(transfer: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match="no transfer"):
        LinkEstimator().see(*transfer)


def test_a_deadline_follows_a_real_link_that_changes(
    server: Server, device: tofc.Device, edge, scenes, make_picture: Callable[..., Any]
) -> None:
    """10 Mbit/s, 200 kbit/s, 10 Mbit/s: packets shrink and grow, and every answer is the edge's own."""
    fast, slow = Link(10.0, 0.05), Link(0.2, 0.05)
    image, prompts = scenes[0]
    port = int(server.url.rsplit(":", 1)[1])
    sizes: dict[str, list[int]] = {"fast": [], "slow": [], "again": []}
    with ShapedProxy(port, fast) as proxy, RemoteEdge(proxy.url) as remote:
        for phase, link in (("fast", fast), ("slow", slow), ("again", fast)):
            proxy.link = link
            for _ in range(5):
                work = sum(
                    remote._seconds.values()
                )  # of this machine, however busy: the link is what is tested
                packet, answer = remote.ask(device, image, prompts[0], deadline_ms=1e3 * (work + 0.15))
                sizes[phase].append(len(packet))
                assert answer == edge.answer(packet, prompts[0])
            if phase == "slow":
                assert remote.link.state.rate < 0.5e6
    assert min(sizes["fast"]) > 2 * max(sizes["slow"][2:])
    assert max(sizes["slow"][2:]) <= (0.15 - 0.05) * 0.25e6 / 8 * 0.75
    assert sizes["again"][-1] > 2 * max(sizes["slow"][2:])


def test_plans_without_a_link(asked) -> None:
    with RemoteEdge(f"http://127.0.0.1:{free_port()}") as remote:
        assert remote.plan(0.5) == {}
        with pytest.raises(UserError, match="above 0"):
            remote.plan(0.0)
