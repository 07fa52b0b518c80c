"""Answers while they grow: what stands and what does not, from a model here and from an edge far away."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tofc
from tests.tofc.drafting.fakes import ENDS, MOST, QUESTION
from tests.tofc.drafting.serving import Running, running
from tofc.drafting import Pace
from tofc.drafting.drafter import DraftCounts, Watch
from tofc.drafting.progress import Piece, ProgressTracker, follow_progress
from tofc.drafting.rounds import PartialAnswer
from tofc.drafting.speculate import Decoded
from tofc.errors import EdgeUnreachable, MissingLibraryError, UserError
from tofc.serving.models import ServedModels

NEW = 24
ROOT = Path(__file__).resolve().parents[3]


class Letters:
    """A tokenizer: 0 is a, 1 is b, ...; 24 and 25 are the halves of a character."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        raw = b"".join({24: b"\xc3", 25: b"\xa9"}.get(t, bytes([97 + t])) for t in tokens)
        return raw.decode(errors="replace")


def grown(tokens: list[int], final: int, checked: int) -> PartialAnswer:
    return PartialAnswer(ENDS, MOST, tokens, final, checked)


def test_pieces_say_what_stands() -> None:
    seen = ProgressTracker(Letters())
    assert seen.pieces() == ()
    seen.see(grown([0, 1, 2, 3], 1, 3))
    assert seen.pieces() == (Piece("a", "final"), Piece("bc", "checked"), Piece("d", "drafted"))
    seen.see(grown([0, 1, 2, 3], 4, 4))
    assert seen.pieces() == (Piece("abcd", "final"),)


def test_what_took_the_place_of_a_fallen_draft_is_marked() -> None:
    seen = ProgressTracker(Letters())
    seen.see(grown([0, 1, 2], 0, 0))
    seen.see(grown([0, 5], 2, 2))
    assert seen.pieces() == (Piece("a", "final"), Piece("f", "final", corrected=True))
    seen.see(grown([0, 5, 6, 7], 2, 2))
    seen.see(grown([0, 5, 6, 8, 9], 5, 5))
    assert [piece.text for piece in seen.pieces() if piece.corrected] == ["f", "i"]
    seen.see(grown([0, 7, 7], 3, 3))  # what stood before it fell is forgotten
    assert [piece.text for piece in seen.pieces() if piece.corrected] == ["h"]


def test_a_character_goes_with_its_last_token() -> None:
    seen = ProgressTracker(Letters())
    seen.see(grown([0, 24, 25, 1], 2, 2))
    assert seen.pieces() == (Piece("a", "final"), Piece("\xe9b", "drafted"))


def decoded(answer: PartialAnswer) -> Decoded:
    text = Letters().decode(answer.tokens, skip_special_tokens=True)
    return Decoded(tofc.Answer(text, "full", tuple(answer.tokens)), answer.final, DraftCounts())


def test_growths_end_with_the_whole_and_raise_what_went_wrong() -> None:
    def run(watch: Watch) -> Decoded:
        answer = grown([], 0, 0)
        for token in range(6):
            answer.append(token)
            watch(answer)
        answer.final = answer.checked = 6
        watch(answer)
        return decoded(answer)

    *before, last = follow_progress(run, Letters(), every=0.0)
    assert all("abcdef".startswith(growth.text) and growth.decoded is None for growth in before)
    assert last.pieces == (Piece("abcdef", "final"),)
    assert last.decoded is not None

    def fails(watch: Watch) -> Decoded:
        watch(grown([0], 0, 0))
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        list(follow_progress(fails, Letters()))


def test_nobody_decodes_for_somebody_who_has_left() -> None:
    goes_on, ended = threading.Event(), threading.Event()

    def run(watch: Watch) -> Decoded:
        answer = grown([0], 0, 0)
        watch(answer)
        try:
            assert goes_on.wait(30)
            watch(answer)
        finally:
            ended.set()
        raise AssertionError("it went on")

    stream = follow_progress(run, Letters())
    assert next(stream).text == "a"
    stream.close()
    goes_on.set()
    assert ended.wait(30)


# -- an edge far away --


@pytest.fixture(scope="module")
def server(family_folder: Path) -> Iterator[Running]:
    with running(ServedModels.load(family_folder, images=False)) as found:
        yield found


@pytest.fixture(scope="module")
def remote(server: Running, family_folder: Path) -> Iterator[tofc.RemoteEdge]:
    with tofc.RemoteEdge(server.url, str(family_folder), draft="e1-50", timeout=10) as found:
        yield found


def test_ordinary_answers_are_drafted_here(
    remote: tofc.RemoteEdge, edge: tofc.Edge, packets: list[tofc.Packet], monkeypatch: Any
) -> None:
    monkeypatch.setattr(remote, "_send", None)  # no question goes up whole
    pairs = [(packets[0], QUESTION), (packets[1], f"{QUESTION} <image><|im_end|>")]  # special tokens are text
    expected = edge.answer_many(pairs, max_new_tokens=NEW)
    assert remote.answer_many(pairs, max_new_tokens=NEW) == expected
    assert remote.answer(bytes(packets[0]), QUESTION, max_new_tokens=NEW) == expected[0]
    sampled = remote.answer(packets[0], QUESTION, max_new_tokens=NEW, temperature=0.5, top_k=1, seed=3)
    assert sampled.tokens == expected[0].tokens


def test_what_is_learned_of_link_and_edge_stays_known(
    server: Running, family_folder: Path, packets: list[tofc.Packet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer is told how long the way is; the second plans by what the rounds of the first took."""
    told: list[Pace] = []
    known: list[bool] = []
    way, plan = Pace.way, Pace.plan

    def told_way(self: Pace, seconds: float) -> None:
        told.append(self)
        way(self, seconds)

    def planned(self: Pace) -> tuple[int, int]:
        known.append("alone" in self.seconds)  # what a token of the edge takes
        return plan(self)

    monkeypatch.setattr(Pace, "way", told_way)
    monkeypatch.setattr(Pace, "plan", planned)
    with tofc.RemoteEdge(server.url, str(family_folder), draft="e1-50", timeout=10) as remote:
        remote.answer(packets[0], QUESTION, max_new_tokens=NEW)
        plans = len(known)
        remote.answer(packets[1], QUESTION, max_new_tokens=NEW)
        remote.answer_many([(packet, QUESTION) for packet in packets[:2]], max_new_tokens=4)
    assert (known[0], known[plans]) == (False, True)
    assert len(told) == 1


def test_streams_tell_verified_tokens_apart(
    remote: tofc.RemoteEdge, edge: tofc.Edge, packets: list[tofc.Packet], monkeypatch: pytest.MonkeyPatch
) -> None:
    states: set[str] = set()
    see = ProgressTracker.see

    def look(self: ProgressTracker, answer: PartialAnswer) -> None:  # at every change: streams leave out some
        see(self, answer)
        states.update(piece.state for piece in self.pieces())

    monkeypatch.setattr(ProgressTracker, "see", look)
    settings = replace(remote.drafting._settings, pace=Pace(3))
    monkeypatch.setattr(remote.drafting, "_settings", settings)
    *_, last = remote.stream(packets[0], QUESTION, max_new_tokens=NEW)
    assert last.decoded is not None
    assert last.decoded.answer == edge.answer(packets[0], QUESTION, max_new_tokens=NEW)
    assert {piece.state for piece in last.pieces} == {"final"}
    assert last.text.strip() == last.decoded.answer.text
    assert states == {"drafted", "final"}


def test_what_does_not_go_with_drafts(
    remote: tofc.RemoteEdge, server: Running, packets: list[tofc.Packet], family_folder: Path
) -> None:
    with pytest.raises(UserError, match="leave out e3"):
        remote.answer(packets[0], QUESTION, exit="e3")
    with pytest.raises(UserError, match="num_beams does not go with drafts"):
        remote.answer(packets[0], QUESTION, num_beams=3)
    with pytest.raises(UserError, match="no exit 'e9'"):
        tofc.RemoteEdge(server.url, str(family_folder), draft="e9")
    with pytest.raises(UserError, match="default"):
        tofc.RemoteEdge(server.url, draft="e1")
    with tofc.RemoteEdge(server.url) as plain, pytest.raises(UserError, match="nothing is drafted here"):
        plain.stream(packets[0], QUESTION)


def test_the_device_answers_where_nobody_is(
    family_folder: Path, edge: tofc.Edge, packets: list[tofc.Packet]
) -> None:
    nobody = "http://127.0.0.1:9"
    options: dict[str, Any] = {"draft": "e1-50", "retries": 0}
    with (
        tofc.RemoteEdge(nobody, str(family_folder), **options) as remote,
        pytest.raises(EdgeUnreachable, match="did not answer in 1 tries"),
    ):
        remote.answer(packets[0], QUESTION)
    with tofc.RemoteEdge(nobody, str(family_folder), fallback=lambda: edge, **options) as remote:
        answer = remote.answer(packets[0], QUESTION, max_new_tokens=NEW)
    assert answer == edge.answer(packets[0], QUESTION, max_new_tokens=NEW)
    assert "did not answer" in answer.fallback


def test_a_device_without_pytorch_is_told_what_drafting_takes() -> None:
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None); import tofc\n"
        "tofc.RemoteEdge('http://127.0.0.1:9').close()  # ordinary questions take neither\n"
        "try: tofc.RemoteEdge('http://127.0.0.1:9', 'scenes-tiny', draft='e1')\n"
        "except tofc.UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("drafting for an edge needs torch, which is not installed: pip install")


def test_a_device_without_websockets_is_told_what_drafting_takes(
    remote: tofc.RemoteEdge, packets: list[tofc.Packet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "websockets.sync.client", None)
    with pytest.raises(MissingLibraryError, match=r"needs websockets.*pip install 'tofc\[serve\]'"):
        remote.answer(packets[0], QUESTION)
