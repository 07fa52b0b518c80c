"""Tiers over HTTP: real servers on threads of this process, a device that drafts, links that break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import tofc
from tests.tofc.decoding.fakes import QUESTION
from tests.tofc.decoding.serving import Running, running
from tofc.decoding import Choice, Pace
from tofc.decoding.growing import Growing
from tofc.decoding.remote import draft_for, drafted_by
from tofc.decoding.rounds import Round, told
from tofc.errors import EdgeUnreachable, UserError
from tofc.serving.client import RemoteEdge
from tofc.serving.models import ServedModels
from tofc.serving.verification import Upstream

NEW = 24


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
    with RemoteEdge(server.url, "tiny", timeout=5, retries=0) as found:
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
    decoded = draft_for(
        remote, device_edge, packets[0], QUESTION, pace=pace, parallel=parallel, max_new_tokens=NEW
    )
    assert decoded.answer == edge.answer(packets[0], QUESTION, max_new_tokens=NEW)
    assert decoded.unverified == 0
    assert decoded.answer.exit == "full"


def test_three_tiers_answer_as_the_cloud_alone(
    server: Running,
    models: ServedModels,
    device_edge: tofc.Edge,
    edge: tofc.Edge,
    packets: list[tofc.Packet],
) -> None:
    upstream = Upstream.reach(server.url, models, "e3")
    with running(models, upstream) as middle, RemoteEdge(middle.url, "tiny") as remote:
        decoded = draft_for(remote, device_edge, packets[1], QUESTION, tiers=3, max_new_tokens=NEW)
        assert decoded.answer == edge.answer(packets[1], QUESTION, max_new_tokens=NEW)
        with pytest.raises(UserError, match="with --tiers device,edge,cloud"):
            draft_for(remote, device_edge, packets[1], QUESTION, tiers=2)


def test_sampling_recomputes_what_the_drafter_drew_from_only_with_its_very_weights(
    remote: RemoteEdge,
    server: Running,
    device_edge: tofc.Edge,
    edge: tofc.Edge,
    packets: list[tofc.Packet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known: list[bool] = []

    def ask() -> tuple[int, ...]:
        found: list[Any] = []

        def look(_: Growing) -> None:
            found[:] = list(server.answers._open.values())[-1:]

        choice = Choice(0.5, top_k=1, seed=3)
        tokens = draft_for(
            remote, device_edge, packets[0], QUESTION, choice=choice, max_new_tokens=NEW, watch=look
        ).answer.tokens
        known.append(found[0].verifier._drafter is not None)
        return tokens

    greedy = edge.answer(packets[0], QUESTION, max_new_tokens=NEW).tokens
    assert ask() == greedy  # one token is left to draw
    monkeypatch.setattr(
        "tofc.decoding.remote.drafted_by", lambda *given: drafted_by(*given) | {"draft_tag": "0badf00d"}
    )
    assert ask() == greedy
    assert known == [True, False]


def test_a_server_that_forgets_is_told_again(
    remote: RemoteEdge,
    server: Running,
    device_edge: tofc.Edge,
    edge: tofc.Edge,
    packets: list[tofc.Packet],
) -> None:
    forgotten = 0

    def forget(answer: Growing) -> None:
        nonlocal forgotten
        if answer.final and forgotten < 3:
            forgotten += 1
            server.answers._open.clear()

    decoded = draft_for(remote, device_edge, packets[2], QUESTION, watch=forget, max_new_tokens=NEW)
    assert decoded.answer == edge.answer(packets[2], QUESTION, max_new_tokens=NEW)
    assert forgotten == 3


def test_an_edge_that_goes_away_leaves_the_devices_own_words_and_says_so(
    models: ServedModels, device_edge: tofc.Edge, edge: tofc.Edge, packets: list[tofc.Packet]
) -> None:
    with running(models) as server, RemoteEdge(server.url, "tiny") as remote:

        def stop(answer: Growing) -> None:
            if answer.final >= 3:
                server.stop()

        decoded = draft_for(
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


def test_what_does_not_fit_is_refused(
    remote: RemoteEdge,
    models: ServedModels,
    edge: tofc.Edge,
    device_edge: tofc.Edge,
    packets: list[tofc.Packet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match="a verifier is larger than its drafter"):
        draft_for(remote, edge, packets[0], QUESTION, draft="full")
    with pytest.raises(UserError, match=r"2 tiers|--upstream"):
        draft_for(remote, device_edge, packets[0], QUESTION, tiers=3)
    monkeypatch.setattr("tofc.decoding.remote.vocabulary_tag", lambda _: "another")
    with pytest.raises(UserError, match="another tokenizer"):
        draft_for(remote, device_edge, packets[0], QUESTION)
    with pytest.raises(UserError, match="no exit 'e9'"):
        Upstream.reach(remote.url, models, "e9")


def test_nobody_there_at_the_start(
    models: ServedModels, device_edge: tofc.Edge, packets: list[tofc.Packet]
) -> None:
    nobody = "http://127.0.0.1:9"
    with (
        RemoteEdge(nobody, "tiny", retries=0) as remote,
        pytest.raises(EdgeUnreachable, match="did not answer"),
    ):
        draft_for(remote, device_edge, packets[0], QUESTION)
    with pytest.raises(EdgeUnreachable, match="did not answer"):
        Upstream.reach(nobody, models, "e3")


@pytest.mark.parametrize(
    "body",
    [
        lambda: b"",
        lambda: b"\x01" * 12,
        lambda: bytes(Round(0, told([]), 0, (1 << 19,))),
        lambda: bytes(Round(0, told([]), 0, (1,) * 600)),
    ],
)
def test_rounds_that_are_none(
    remote: RemoteEdge, server: Running, packets: list[tofc.Packet], body: Callable[[], bytes]
) -> None:
    from tofc.decoding.remote import RemoteVerifier, _question

    assert httpx.post(f"{server.url}/v1/answers/{'0' * 16}", content=body()).status_code == 404
    asked = _question("tiny", packets[0], QUESTION, Choice(), NEW)
    told_of = {
        "draft": "e1",
        "draft_parameters": 1,
        "draft_tag": "",
        "vocabulary": server.answers._vocabulary,
    }
    far = RemoteVerifier(remote, asked | told_of)
    far.open()
    refused = httpx.post(far._url, content=body())
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "invalid_round"
    far.close()
    assert httpx.post(far._url, content=body()).status_code == 404
