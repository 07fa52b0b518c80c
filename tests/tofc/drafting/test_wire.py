"""Tiers over WebSockets: real servers on threads of this process, a device that drafts, links that break."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import tofc
from tests.tofc.drafting.fakes import QUESTION
from tests.tofc.drafting.serving import Running, running
from tofc.drafting import Pace, Sampling
from tofc.drafting.drafter import Watch
from tofc.drafting.reader import SharedBlocks, StateRule
from tofc.drafting.remote import DraftSettings, _question, draft_for, drafted_by, shared_tag, vocabulary_tag
from tofc.drafting.rounds import PartialAnswer, Round, checksum
from tofc.drafting.speculate import Decoded
from tofc.errors import EdgeUnreachable, UserError
from tofc.serving.client import RemoteEdge
from tofc.serving.models import ServedModels
from tofc.serving.settings import Keys, Limits
from tofc.serving.verification import Upstream, Verification, Verifiers

NEW = 24


def ask_drafted(
    remote: RemoteEdge,
    edge: tofc.Edge,
    packet: tofc.Packet,
    question: str,
    watch: Watch | None = None,
    **how: Any,
) -> Decoded:
    settings = DraftSettings(**how)
    return draft_for(remote.connection, remote.model, edge, packet, question, settings, watch)


@pytest.fixture(scope="module")
def models(family_folder: Path) -> ServedModels:
    return ServedModels.load(family_folder, images=False)


@pytest.fixture(scope="module")
def server(models: ServedModels) -> Iterator[Running]:
    with running(models) as found:
        yield found


@pytest.fixture(scope="module")
def device_edge(family_folder: Path) -> tofc.Edge:
    """All that a device has of the language model: the blocks up to its branch."""
    return tofc.Edge.from_pretrained(family_folder, "e1-50")


@pytest.fixture
def remote(server: Running) -> Iterator[RemoteEdge]:
    with RemoteEdge(server.url, "tiny", timeout=60, retries=0) as found:
        yield found


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("pace", [Pace(3), Pace(0), Pace()], ids=["3", "alone", "planned"])
def test_device_and_edge_answer_as_the_edge_alone(
    remote: RemoteEdge,
    device_edge: tofc.Edge,
    edge: tofc.Edge,
    packets: list[tofc.Packet],
    pace: Pace,
    parallel: bool,
) -> None:
    decoded = ask_drafted(
        remote, device_edge, packets[0], QUESTION, pace=pace, parallel=parallel, max_new_tokens=NEW
    )
    assert decoded.answer == edge.answer(packets[0], QUESTION, max_new_tokens=NEW)
    assert decoded.unverified == 0
    assert decoded.answer.exit == "full"


def test_three_tiers_answer_as_the_cloud_alone(
    server: Running,
    models: ServedModels,
    family_folder: Path,
    device_edge: tofc.Edge,
    edge: tofc.Edge,
    packets: list[tofc.Packet],
) -> None:
    upstream = Upstream.reach(server.url, str(family_folder))
    assert upstream.exit == "e3"  # the largest but for the full model
    with running(models, upstream) as middle, RemoteEdge(middle.url, "tiny") as remote:
        decoded = ask_drafted(remote, device_edge, packets[1], QUESTION, tiers=3, max_new_tokens=NEW)
        assert decoded.answer == edge.answer(packets[1], QUESTION, max_new_tokens=NEW)
        with pytest.raises(UserError, match="with --tiers device,edge,cloud"):
            ask_drafted(remote, device_edge, packets[1], QUESTION, tiers=2)
        with pytest.raises(UserError, match="three tiers at most"):
            Upstream.reach(middle.url, str(family_folder))


@pytest.mark.parametrize("tiers", [2, 3])
@pytest.mark.parametrize("choice", [Sampling(), Sampling(0.5, top_k=1, seed=3)], ids=["greedy", "sampled"])
def test_states_travel_and_answers_stay_the_same(
    server: Running,
    models: ServedModels,
    family_folder: Path,
    device_edge: tofc.Edge,
    edge: tofc.Edge,
    packets: list[tofc.Packet],
    monkeypatch: pytest.MonkeyPatch,
    tiers: int,
    choice: Sampling,
) -> None:
    taken: list[tuple[int, int]] = []
    take = SharedBlocks.take

    def look(self: SharedBlocks, tokens: Any, round: Round) -> None:
        taken.append((round.begin, len(round.states)))
        take(self, tokens, round)

    monkeypatch.setattr(SharedBlocks, "take", look)
    monkeypatch.setattr(StateRule, "goes", lambda self, states: True)  # on every tier
    monkeypatch.setattr(StateRule, "heard", lambda self, *given: None)
    with ExitStack() as stack:
        url = server.url
        if tiers == 3:
            upstream = Upstream.reach(url, str(family_folder))
            url = stack.enter_context(running(models, upstream)).url
        remote = stack.enter_context(RemoteEdge(url, "tiny"))
        decoded = ask_drafted(
            remote, device_edge, packets[0], QUESTION, sampling=choice, pace=Pace(3), max_new_tokens=NEW
        )
    assert decoded.answer == edge.answer(packets[0], QUESTION, max_new_tokens=NEW)
    sizes = {size for _, size in taken}
    assert 4 * 192 * 4 in sizes  # three drafts and the token before them, 192 numbers of 4 bytes
    assert taken[0] == (0, 3 * 192 * 4)
    assert decoded.counts.num_bytes > 24 * 192


def test_states_stay_where_the_other_side_has_other_weights(
    remote: RemoteEdge,
    device_edge: tofc.Edge,
    edge: tofc.Edge,
    packets: list[tofc.Packet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tofc.drafting.remote.shared_tag", lambda edge, depth: "another")
    pace = Pace(3, states=StateRule(True))
    decoded = ask_drafted(remote, device_edge, packets[0], QUESTION, pace=pace, max_new_tokens=NEW)
    assert decoded.answer == edge.answer(packets[0], QUESTION, max_new_tokens=NEW)
    assert decoded.counts.num_bytes < 100 * decoded.counts.rounds


def test_sampling_recomputes_what_the_drafter_drew_from_only_with_its_very_weights(
    remote: RemoteEdge,
    device_edge: tofc.Edge,
    edge: tofc.Edge,
    packets: list[tofc.Packet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known: list[bool] = []
    opened = Verifiers.open

    def look(self: Verifiers, *given: Any) -> Verification:
        found = opened(self, *given)
        known.append(found.verifier._drafter is not None)
        return found

    monkeypatch.setattr(Verifiers, "open", look)

    def ask() -> tuple[int, ...]:
        choice = Sampling(0.5, top_k=1, seed=3)
        decoded = ask_drafted(remote, device_edge, packets[0], QUESTION, sampling=choice, max_new_tokens=NEW)
        return tuple(decoded.answer.tokens)

    greedy = edge.answer(packets[0], QUESTION, max_new_tokens=NEW).tokens
    assert ask() == greedy  # one token is left to draw
    monkeypatch.setattr(
        "tofc.drafting.remote.drafted_by", lambda *given: drafted_by(*given) | {"draft_tag": "0badf00d"}
    )
    assert ask() == greedy
    assert known == [True, False]


@pytest.mark.parametrize("parallel", [False, True])
def test_connections_that_break_at_any_time_change_no_answer(
    remote: RemoteEdge,
    server: Running,
    device_edge: tofc.Edge,
    edge: tofc.Edge,
    packets: list[tofc.Packet],
    parallel: bool,
) -> None:
    chance = random.Random(parallel)
    cuts = 0
    for number, packet in enumerate(packets):
        shown: list[int] = []

        def trouble(answer: PartialAnswer, shown: list[int] = shown) -> None:
            nonlocal cuts
            assert answer.tokens[: len(shown)] == shown  # what was final stays
            shown[:] = answer.tokens[: answer.final]
            if chance.random() < 0.2:
                cuts += server.cut() > 0

        decoded = ask_drafted(
            remote,
            device_edge,
            packet,
            QUESTION,
            pace=Pace(1 + number, states=StateRule(number > 0)),
            parallel=parallel,
            max_new_tokens=NEW,
            watch=trouble,
        )
        assert decoded.answer == edge.answer(packet, QUESTION, max_new_tokens=NEW)
        assert decoded.unverified == 0
    assert cuts > 3


def test_an_edge_that_goes_away_leaves_the_devices_own_words_and_says_so(
    models: ServedModels, device_edge: tofc.Edge, edge: tofc.Edge, packets: list[tofc.Packet]
) -> None:
    with running(models) as server, RemoteEdge(server.url, "tiny") as remote:

        def stop(answer: PartialAnswer) -> None:
            if answer.final >= 3:
                server.stop()

        decoded = ask_drafted(
            remote,
            device_edge,
            packets[0],
            QUESTION,
            pace=Pace(2),
            parallel=False,
            patience=0.2,
            watch=stop,
            max_new_tokens=NEW,
        )
    whole = edge.answer(packets[0], QUESTION, max_new_tokens=NEW).tokens
    assert 3 <= decoded.final < NEW
    assert decoded.answer.tokens[: decoded.final] == whole[: decoded.final]
    assert decoded.unverified > 0
    assert decoded.answer.exit == "e1-50"
    assert f"last {decoded.unverified} tokens" in decoded.answer.fallback


def test_a_deadline_ends_what_a_slow_edge_verifies(
    server: Running,
    device_edge: tofc.Edge,
    packets: list[tofc.Packet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check = Verification.check

    def slow(self: Verification, data: bytes) -> bytes:
        time.sleep(1.5)
        return check(self, data)

    monkeypatch.setattr(Verification, "check", slow)
    with RemoteEdge(server.url, "tiny", timeout=4, retries=0) as remote:
        decoded = ask_drafted(
            remote, device_edge, packets[0], QUESTION, pace=Pace(1), parallel=False, max_new_tokens=NEW
        )
    assert decoded.unverified > 0
    assert decoded.answer.fallback
    assert decoded.counts.rounds < 4


def test_what_does_not_fit_is_refused(
    remote: RemoteEdge,
    models: ServedModels,
    edge: tofc.Edge,
    device_edge: tofc.Edge,
    packets: list[tofc.Packet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match="a verifier is larger than its drafter"):
        ask_drafted(remote, edge, packets[0], QUESTION, draft="full")
    with pytest.raises(UserError, match=r"2 tiers|--upstream"):
        ask_drafted(remote, device_edge, packets[0], QUESTION, tiers=3)
    monkeypatch.setattr("tofc.drafting.remote.vocabulary_tag", lambda _: "another")
    with pytest.raises(UserError, match="another tokenizer"):
        ask_drafted(remote, device_edge, packets[0], QUESTION)


def test_nobody_there_at_the_start(
    models: ServedModels, device_edge: tofc.Edge, packets: list[tofc.Packet]
) -> None:
    nobody = "http://127.0.0.1:9"
    with (
        RemoteEdge(nobody, "tiny", retries=0) as remote,
        pytest.raises(EdgeUnreachable, match="did not answer"),
    ):
        ask_drafted(remote, device_edge, packets[0], QUESTION)


@pytest.fixture
def question(server: Running, packets: list[tofc.Packet], models: ServedModels) -> dict[str, Any]:
    """What opens an answer."""
    told = {"draft": "e1", "draft_parameters": 1, "vocabulary": vocabulary_tag(models.edge)}
    return _question("tiny", packets[0], QUESTION, Sampling(), NEW) | told


def refusal(socket: ClientConnection) -> dict[str, Any]:
    """The last message, which is an error; the server closes behind it."""
    said: dict[str, Any] = json.loads(socket.recv(timeout=10))
    with pytest.raises(ConnectionClosed):
        socket.recv(timeout=10)
    assert said["request_id"] == socket.response.headers["x-request-id"]
    assert "Traceback" not in json.dumps(said)
    return said


def far(server: Running) -> ClientConnection:
    return connect(f"ws{server.url.removeprefix('http')}/v1/answers", compression=None)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_round"),
        (b"\x02" * 12, "invalid_round"),
        (bytes(Round(0, checksum([]), 0, (1 << 19,))), "invalid_round"),
        (bytes(Round(0, checksum([]), 0, (1,) * 600)), "invalid_round"),
        ("a round is no text", "invalid_round"),
        (bytes(Round(0, checksum([]), 0, (1, 2), 1, 0, b"\x00" * 1535)), "invalid_round"),
        (bytes(Round(0, checksum([]), 0, (1, 2), 1, 1, b"\x00" * 1536)), "invalid_round"),
        (bytes(Round(0, checksum([]), 0, (1, 2), 1, 0, b"\xff" * 1536)), "invalid_round"),
    ],
)
def test_rounds_that_are_none(
    server: Running, question: dict[str, Any], models: ServedModels, body: bytes | str, code: str
) -> None:
    told = {"shared": 3, "shared_tag": shared_tag(models.edge, 3)}
    with far(server) as socket:
        socket.send(json.dumps(question | told))
        assert json.loads(socket.recv(timeout=10)) == {"exit": "full", "tiers": 2, "states": True}
        socket.send(body)
        said = refusal(socket)
    assert (said["status"], said["error"]["code"]) == (400, code)


def test_states_that_were_not_asked_for(server: Running, question: dict[str, Any]) -> None:
    with far(server) as socket:
        socket.send(json.dumps(question | {"shared": 99, "shared_tag": "1"}))
        assert json.loads(socket.recv(timeout=10))["states"] is False
        socket.send(bytes(Round(0, checksum([]), 0, (1, 2), 1, 0, b"\x00" * 1536)))
        said = refusal(socket)
    assert said["error"]["code"] == "invalid_round"
    assert "does not take" in said["error"]["message"]


@pytest.mark.parametrize(
    ("first", "status", "code"),
    [
        ("{", 400, "invalid_request"),
        ("[]", 400, "invalid_request"),
        (b"{}", 400, "invalid_round"),
        ({"draft_parameters": -1}, 400, "invalid_request"),
        ({"model": "none"}, 404, "model_not_found"),
        ({"vocabulary": "another"}, 400, "other_tokenizer"),
        ({"draft_parameters": 1 << 40}, 400, "verifier_too_small"),
        ({"tokens": [1 << 20]}, 400, "invalid_value"),
        ({"shared": -1}, 400, "invalid_request"),
        ({"max_tokens": 1 << 20}, 400, "invalid_value"),
    ],
)
def test_questions_that_are_none(
    server: Running, question: dict[str, Any], first: Any, status: int, code: str
) -> None:
    with far(server) as socket:
        socket.send(json.dumps(question | first) if isinstance(first, dict) else first)
        said = refusal(socket)
    assert (said["status"], said["error"]["code"]) == (status, code)


def test_who_may_open_answers_and_how_many(models: ServedModels, question: dict[str, Any]) -> None:
    key = {"authorization": "Bearer 0123456789abcdef"}
    limits = Limits(drafted=1, drafted_idle=0.5, body_bytes=4096)
    with running(models, limits=limits, keys=Keys(["camera:0123456789abcdef"])) as server:
        url = f"ws{server.url.removeprefix('http')}/v1/answers"
        for headers, status in (({}, 401), (key | {"origin": "https://elsewhere.example"}, 403)):
            with pytest.raises(InvalidStatus) as refused, connect(url, additional_headers=headers):
                pass
            response = refused.value.response
            assert response.status_code == status
            assert response.headers["x-request-id"].startswith("req-")
            assert json.loads(response.body)["error"]["message"]
        with connect(url, additional_headers=key) as socket:
            with pytest.raises(InvalidStatus) as refused, connect(url, additional_headers=key):
                pass
            assert refused.value.response.status_code == 429
            socket.send(json.dumps(question))
            socket.recv(timeout=10)
            said = refusal(socket)  # nothing came
        assert (said["status"], said["error"]["code"]) == (408, "idle")
        figures = httpx.get(f"{server.url}/metrics", headers=key).text
        assert "tofc_drafted_answers 0.0" in figures
        assert 'tofc_requests_total{route="/v1/answers",status="408"} 1.0' in figures
        assert 'tofc_requests_total{route="/v1/answers",status="429"} 1.0' in figures


def test_a_key_opens_answers(
    models: ServedModels, device_edge: tofc.Edge, packets: list[tofc.Packet]
) -> None:
    with running(models, keys=Keys(["camera:0123456789abcdef"])) as server:
        with RemoteEdge(server.url, "tiny", api_key="0123456789abcdef") as remote:
            assert not ask_drafted(remote, device_edge, packets[0], QUESTION, max_new_tokens=4).unverified
        with RemoteEdge(server.url, "tiny") as remote, pytest.raises(UserError, match="no valid API key"):
            ask_drafted(remote, device_edge, packets[0], QUESTION)
