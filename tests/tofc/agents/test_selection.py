"""Who is asked, votes, and quotations: without any model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tofc.agents import AgentCard, AgentReply, LearnedSelector, TfidfSelector, confidence_vote, majority_vote
from tofc.agents.aggregation import MAX_QUOTED, aggregate_prompt, quoted
from tofc.agents.cards import choose
from tofc.errors import UserError

CARDS = (
    AgentCard("counter", "how many things there are: counting"),
    AgentCard("painter", "what colour a thing has"),
    AgentCard("reader", "what text a sign says", price_bytes=100),
)
COUNT = [f"How many {thing}s are there?" for thing in ("car", "dog", "tree", "bus", "house", "lamp")]
COLOUR = [f"What colour is the {thing}?" for thing in ("car", "dog", "tree", "bus", "house", "lamp")]


def test_descriptions_are_found_by_their_words() -> None:
    scores = TfidfSelector(CARDS).scores(["How many dogs are there?", "What colour is the bus?", "Hm?"])
    assert scores.shape == (3, 3)
    assert scores[:2].argmax(1).tolist() == [0, 1]
    assert (scores[2] == 0).all()


def test_a_learned_selector_knows_who_was_right(tmp_path: Path) -> None:
    questions = COUNT[:4] + COLOUR[:4]
    right = np.array([[1, 0, 1]] * 4 + [[0, 1, 1]] * 4, dtype=float)
    found = LearnedSelector.fit([card.name for card in CARDS], questions, right)
    scores = found.scores([COUNT[5], COLOUR[5]])
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (scores[0, 0] > scores[0, 1], scores[1, 1] > scores[1, 0]) == (True, True)
    found.save(tmp_path / "selector.safetensors")
    turned = LearnedSelector.load(tmp_path / "selector.safetensors", CARDS[::-1])
    np.testing.assert_allclose(turned.scores(questions), found.scores(questions)[:, ::-1], rtol=1e-5)


@pytest.mark.parametrize("content", [b"", b"no selector", None])
def test_what_is_no_selector_of_these_agents(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "selector.safetensors"
    if content is None:
        LearnedSelector.fit(["other"], COUNT, np.ones((len(COUNT), 1))).save(file)
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match="no selector of these agents"):
        LearnedSelector.load(file, CARDS)


def test_choice_by_score_number_and_price() -> None:
    assert choose([0.1, 0.3, 0.2], CARDS, 2, None) == [1, 2]
    assert choose([0.1, 0.3, 0.2], CARDS, 3, 99) == [1, 0]
    assert choose([0.0, 0.0, 0.0], CARDS, 2, None) == [0, 1]


def said(*given: tuple[str, float | None]) -> list[AgentReply]:
    return [AgentReply(f"a{n}", text, sure) for n, (text, sure) in enumerate(given)]


def test_votes() -> None:
    replies = said(("Yes.", 0.4), ("no", 0.9), ("yes", 0.3))
    assert majority_vote(replies) == "Yes."
    assert confidence_vote(replies) == "no"
    assert majority_vote(said(("Yes", 0.6), ("No", 0.9))) == "No"
    assert confidence_vote(said(("Yes", None), ("No", 0.49))) == "Yes"
    assert majority_vote([AgentReply("late", fault="no answer"), *said(("No", None))]) == "No"
    assert majority_vote([]) == confidence_vote([]) == ""


MARKUP = [
    "<|im_end|>",
    "<|im_start|>system",
    "[INST]",
    "</s>",
    "\n",
    "### System:",
    "＜|",
    "\u2028",
    "\x00",
    "<s>",
]


@given(st.lists(st.one_of(st.sampled_from(MARKUP), st.text(max_size=80)), max_size=12))
def test_quotations_are_one_bounded_line_without_markup(parts: list[str]) -> None:
    line = quoted("".join(parts))
    assert (line[0], line[-1]) == ('"', '"')
    inside = line[1:-1]
    assert len(inside) <= MAX_QUOTED
    assert not set(inside) & set('<>[]{}|\\`#"')
    assert inside.isprintable()
    assert len(inside.splitlines()) <= 1


def test_plain_answers_are_quoted_as_they_are() -> None:
    assert quoted("There are 3 cars, 20.5 % of them red.") == '"There are 3 cars, 20.5 % of them red."'


def test_the_server_is_asked_as_ever_where_nobody_answered() -> None:
    assert aggregate_prompt("Why?", [AgentReply("a", fault="late")]) == "Why?"
    assert aggregate_prompt("Why?", said(("Yes", 0.5))).splitlines()[1:] == ['a0 (50 % sure): "Yes"', "Why?"]
