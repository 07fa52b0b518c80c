"""Two replicas under Ray Serve, as real processes: one server to those who ask, also when one is killed."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from eval.serving.process import Server, running_server
from tests.tofc.serving.asking import message, url_of
from tests.tofc.serving.talkative import all_was_said, log_lines, talkative
from tofc import RemoteEdge
from tofc.errors import ConfigError, UserError

pytest.importorskip("ray", reason="Ray is not installed: pip install 'tofc[ray]'")

from ray.serve.schema import ServeDeploySchema

from tofc.serving.ray_app import Replicated, build, serve_replicated
from tofc.serving.settings import Listen
from tofc.serving.telemetry import Metrics, side_by_side

ROOT = Path(__file__).resolve().parents[3]
KEY = "0123456789abcdef-0123456789abcdef"
CHAT = "/v1/chat/completions"
START, PATIENCE = 600, 120  # seconds that Ray, and anything that is asked of it, may take beside other work


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Ray of its own with two replicas that share what cores there are."""
    folder = tmp_path_factory.mktemp("ray")
    (folder / "keys.txt").write_text(f"tests:{KEY}\n")
    options = ["--ray", "--replicas", "2", "--packets-only", "--api-keys", str(folder / "keys.txt")]
    # Ray would run replicas behind everything else that a machine does.
    environment = {"RAY_ADDRESS": "local", "RAY_worker_niceness": "0", "PYTHONPATH": talkative(folder)}
    with running_server(folder, *options, patience=START, **environment) as running:
        yield running


@pytest.fixture
def http(cluster: Server) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=cluster.url, headers=headers, timeout=PATIENCE) as client:
        yield client


@pytest.fixture(scope="module")
def known(edge, asked) -> list[tuple[bytes, str, str]]:
    """Packets, questions, and what an edge in this process says."""
    answers = edge.answer_many(asked)
    return [(*pair, answer.text) for pair, answer in zip(asked, answers, strict=True)]


def remote(cluster: Server, **more: Any) -> RemoteEdge:
    return RemoteEdge(cluster.url, api_key=KEY, timeout=PATIENCE, connect_timeout=30, retries=60, **more)


def series_of(http: httpx.Client, name: str) -> dict[str, float]:
    """A series summed by replica, as the metrics show it."""
    found: dict[str, float] = {}
    lines = re.findall(rf"^{name}{{(.*)}} (\S+)$", http.get("/metrics").text, flags=re.MULTILINE)
    for labels, value in lines:
        (replica,) = re.findall(r'replica="([^"]+)"', labels)
        found[replica] = found.get(replica, 0) + float(value)
    return found


def counted(http: httpx.Client, name: str) -> dict[str, float]:
    """The same, once both replicas show their pages; a series may be absent where nothing was counted."""
    until("the pages of two replicas", lambda: len(series_of(http, "tofc_prompt_tokens_total")) == 2)
    return series_of(http, name)


def until(what: str, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} seconds for {what}"
        time.sleep(0.2)


def test_answers_are_those_of_one_server(cluster: Server, edge, asked, known) -> None:
    with remote(cluster) as far:
        assert far.models() == [
            "scenes-tiny",
            *(f"scenes-tiny:{name}" for name in edge.family.names if name != "full"),
        ]
        answers = far.answer_many(asked)
        assert [answer.text for answer in answers] == [text for *_, text in known]
        (member,) = edge.answer_many(asked[:1], exit="e1")
        assert far.answer(*asked[0], exit="e1") == member


def test_both_replicas_answer(cluster: Server, http: httpx.Client, asked) -> None:
    """Chance says which of them gets a request: some are asked until each has had one."""

    def both_have_answered() -> bool:
        far.answer(*asked[0])
        return all(counted(http, "tofc_prompt_tokens_total").values())

    with remote(cluster) as far:
        until("both replicas to answer", both_have_answered)


@pytest.mark.parametrize(
    "change, status, code",
    [
        ({"model": "another"}, 404, "model_not_found"),
        ({"max_tokens": 10**6}, 400, "invalid_value"),
        ({"messages": message("Is there a bus?", url_of(b"no packet"))}, 400, "invalid_packet"),
        ({"messages": []}, 400, "invalid_request"),
        ({"deadline_ms": 1}, 408, "deadline_exceeded"),
    ],
)
def test_errors_are_those_of_one_server(
    http: httpx.Client, asked, change: dict[str, Any], status: int, code: str
) -> None:
    body = {"model": "scenes-tiny", "messages": message(asked[0][1], url_of(asked[0][0])), **change}
    given = http.post(CHAT, json=body, headers={"x-request-id": "mine"})
    assert given.status_code == status
    assert given.json()["error"]["code"] == code
    assert given.headers.get_list("x-request-id") == ["mine"]


def test_keys_are_asked_for(cluster: Server) -> None:
    assert httpx.get(f"{cluster.url}/health", timeout=PATIENCE).text == "alive"
    for path in ("/v1/models", "/metrics"):
        given = httpx.get(cluster.url + path, timeout=PATIENCE)
        assert given.status_code == 401
        assert given.json()["error"]["code"] == "invalid_api_key"


def test_a_repeated_request_finds_the_replica_that_remembers_it(http: httpx.Client, asked) -> None:
    before = sum(counted(http, "tofc_repeated_total").values())
    body = {"model": "scenes-tiny", "messages": message(asked[0][1], url_of(asked[0][0]))}
    for key in ("first", "second", "third", "fourth"):
        ids = {http.post(CHAT, json=body, headers={"idempotency-key": key}).json()["id"] for _ in range(3)}
        assert len(ids) == 1
    until("8 repeated", lambda: sum(counted(http, "tofc_repeated_total").values()) == before + 8)


def test_streams_grow_and_who_leaves_is_noticed(http: httpx.Client, known) -> None:
    packet, question, text = next(row for row in known if row[1].startswith("Describe"))
    body = {"model": "scenes-tiny", "messages": message(question, url_of(packet)), "stream": True}
    with http.stream("POST", CHAT, json=body) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = [yaml.safe_load(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == text
    assert len(events) > 5

    def left() -> float:
        return sum(counted(http, "tofc_refused_total").values())

    before = left()
    with http.stream("POST", CHAT, json=body) as stream:
        next(stream.iter_lines())
    until("the replica to notice that its client left", lambda: left() == before + 1)


def test_drafts_are_verified_over_a_websocket(cluster: Server, known) -> None:
    packet, question, text = next(row for row in known if row[1].startswith("Describe"))
    with RemoteEdge(
        cluster.url, "scenes-tiny", draft="e1", api_key=KEY, timeout=PATIENCE, connect_timeout=30
    ) as far:
        assert far.answer(packet, question).text == text


def test_a_replica_is_killed_under_load(cluster: Server, http: httpx.Client, known) -> None:
    """Every request is answered with its own answer: clients try again under their idempotency keys."""
    victim = min(counted(http, "tofc_requests_total"))
    enough = threading.Semaphore(0)

    def client(number: int) -> list[str]:
        wrong = []
        with remote(cluster, seed=number) as far:
            for packet, question, text in known[number::6] * 2:
                answer = far.answer(packet, question).text
                enough.release()
                if answer != text:
                    wrong.append(f"{question} {answer!r}, not {text!r}")
        return wrong

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, number) for number in range(6)]
        for _ in range(6):
            assert enough.acquire(timeout=PATIENCE), "no answers before a replica was killed"
        os.kill(int(victim.rsplit("-", 1)[1]), signal.SIGKILL)
        assert [wrong for done in clients for wrong in done.result()] == []
    until("the killed replica's page to go", lambda: victim not in series_of(http, "tofc_requests_total"))


def test_whatever_a_replica_says_is_a_line_of_the_log(cluster: Server, http: httpx.Client) -> None:
    """Of the process that started Ray, and of each replica under its name."""
    # A replica that comes in a killed one's place has to stand: what a process says before Ray has taken
    # its output is nowhere.
    counted(http, "tofc_prompt_tokens_total")

    def three_said_it() -> bool:
        said: dict[str, list[dict[str, Any]]] = {}
        for line in log_lines(cluster.log):
            if line.get("worker", "here").startswith(("here", "ServeReplica:tofc:Edge")):
                said.setdefault(line.get("pid", "here"), []).append(line)
        return sum(map(all_was_said, said.values())) >= 3

    (cluster.log.parent / "speak").touch()
    until("what the library says in three processes", three_said_it)


def test_pages_stand_side_by_side() -> None:
    first, second = Metrics(), Metrics()
    first.requests.labels("/ready", "200").inc(3)
    second.requests.labels("/ready", "200").inc(4)
    first.seconds.labels("/ready").observe(0.3)
    page = side_by_side({"a": first.text(), "b": second.text()}, "replica").decode()
    for name, value in (("a", 3.0), ("b", 4.0)):
        assert f'tofc_requests_total{{replica="{name}",route="/ready",status="200"}} {value}' in page
    assert 'tofc_request_seconds_bucket{le="0.5",replica="a",route="/ready"} 1.0' in page
    assert page.count("# TYPE tofc_requests_total counter") == 1


def test_the_config_file_is_one() -> None:
    config = ServeDeploySchema.model_validate(
        yaml.safe_load((ROOT / "deploy" / "ray-serve.yaml").read_text())
    )
    (application,) = config.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    wanted = {**application.args, "api_keys": None}
    assert build(wanted) is not None
    with pytest.raises(ConfigError, match="unknown key replica; valid are model, images"):
        build({"replica": 2})


@pytest.mark.parametrize(
    "values, says",
    [
        ({"replicas": 0}, "replicas is 0"),
        ({"replicas": 3, "most_replicas": 2}, "the larger last"),
        ({"device": "cuda:1"}, "Ray chooses the card"),
        ({"threads": 0}, "at least 1"),
    ],
)
def test_replicas_that_cannot_be(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Replicated(**values)


def test_what_ray_cannot_do_is_told(tmp_path: Path) -> None:
    file = tmp_path / "some.pem"
    file.write_text("")
    with pytest.raises(UserError, match="leave out --tls-clients"):
        serve_replicated(Replicated(), Listen(tls_certificate=file, tls_key=file, tls_clients=file))
