"""Votes over answers: what a model that aggregates has to be better than."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from tofc.agents.collecting import AgentReply

UNTOLD = 0.5  # the weight of an answer whose confidence is not known


def majority_vote(replies: Sequence[AgentReply]) -> str:
    """The answer that most gave; among equals the one of more confidence, then the first. "" for none."""
    return _most(replies, lambda reply: 1.0)


def confidence_vote(replies: Sequence[AgentReply]) -> str:
    """The answer with the largest sum of confidences; among equals the first. "" for none."""
    return _most(replies, lambda reply: _confidence(reply))


def same(text: str) -> str:
    """What answers are compared by: case, outer space and a final stop do not count."""
    return text.strip().removesuffix(".").strip().casefold()


def _most(replies: Sequence[AgentReply], weight: Callable[[AgentReply], float]) -> str:
    votes: dict[str, list[AgentReply]] = defaultdict(list)
    for reply in replies:
        if reply.is_answer:
            votes[same(reply.text)].append(reply)
    if not votes:
        return ""
    won = max(votes.values(), key=lambda given: (sum(map(weight, given)), sum(map(_confidence, given))))
    return won[0].text


def _confidence(reply: AgentReply) -> float:
    return UNTOLD if reply.confidence is None else reply.confidence
