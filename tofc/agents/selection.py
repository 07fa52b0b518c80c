"""Whom to ask: a score for each agent by the question, learned or by the words of its description."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tofc.agents.cards import AgentCard
from tofc.errors import UserError, needs_extra
from tofc.writing import whole_file

NUM_FEATURES = 4096
_NAMES = "agents"

Array = NDArray[np.float64]


class Selector(Protocol):
    """Gives each agent a score for a question: the higher, the sooner it is asked."""

    def scores(self, questions: Sequence[str]) -> Array:
        """[questions, agents], in the order of the cards."""


class TfidfSelector:
    """How near a question's words and pairs of words are to a description: cosine of TF-IDF, 0..1."""

    def __init__(self, cards: Sequence[AgentCard]) -> None:
        with needs_extra("agents", "selecting agents needs"):
            from sklearn.feature_extraction.text import TfidfVectorizer
        # Words that say nothing elsewhere, such as "how many" and "left of", tell questions apart here.
        self._words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        self._descriptions = self._words.fit_transform([card.description for card in cards])

    def scores(self, questions: Sequence[str]) -> Array:
        """[questions, agents], 0..1."""
        found: Array = (self._words.transform(questions) @ self._descriptions.T).toarray()
        return found


@dataclass(frozen=True)
class LearnedSelector:
    """The probability that an agent answers a question right: logistic regression on its words.

    `weights` float64 [agents, NUM_FEATURES], `bias` [agents].
    """

    names: tuple[str, ...]
    weights: Array
    bias: Array

    @classmethod
    def fit(cls, names: Sequence[str], questions: Sequence[str], right: Array) -> LearnedSelector:
        """Learns from questions and whether each agent answered them right, [questions, agents] in 0..1."""
        with needs_extra("agents", "selecting agents needs"):
            from sklearn.linear_model import LogisticRegression
        features = _features(questions)
        weights, bias = np.zeros((len(names), NUM_FEATURES)), np.zeros(len(names))
        for number in range(len(names)):
            labels = right[:, number] > 0.5
            if labels.all() or not labels.any():  # nothing to tell apart: the share is all there is to know
                bias[number] = 5.0 if labels.all() else -5.0
                continue
            fitted = LogisticRegression(C=10.0, max_iter=500).fit(features, labels)
            weights[number], bias[number] = fitted.coef_[0], fitted.intercept_[0]
        return cls(tuple(names), weights, bias)

    def scores(self, questions: Sequence[str]) -> Array:
        """[questions, agents], 0..1."""
        logits = _features(questions) @ self.weights.T + self.bias
        found: Array = 1 / (1 + np.exp(-logits))
        return found

    def save(self, file: Path) -> None:
        """Writes the file that `AgentsConfig.selector` names (safetensors)."""
        from safetensors.numpy import save_file

        tensors = {"weights": self.weights.astype(np.float32), "bias": self.bias.astype(np.float32)}
        with whole_file(file) as draft:
            save_file(tensors, draft, {_NAMES: json.dumps(self.names)})

    @classmethod
    def load(cls, file: Path, cards: Sequence[AgentCard]) -> LearnedSelector:
        """Reads what `save` wrote, in the order of the cards; UserError where it is of other agents."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="numpy") as stored:
                names = json.loads((stored.metadata() or {})[_NAMES])
                weights, bias = (stored.get_tensor(name).astype(np.float64) for name in ("weights", "bias"))
            order = [names.index(card.name) for card in cards]
            if weights.shape != (len(names), NUM_FEATURES) or bias.shape != (len(names),):
                raise ValueError(f"its shape is {weights.shape}")
        except (OSError, SafetensorError, LookupError, ValueError, TypeError) as error:
            raise UserError(
                f"{file} is no selector of these agents ({error}): learn one, `tofc eval agents --fit`, or "
                "leave selector out"
            ) from error
        return cls(tuple(card.name for card in cards), weights[order], bias[order])


def choose(
    scores: Sequence[float], cards: Sequence[AgentCard], most: int, max_price_bytes: int | None
) -> list[int]:
    """Numbers of the agents to ask, the best first: at most `most`, within what they may cost together."""
    chosen: list[int] = []
    left = float("inf") if max_price_bytes is None else max_price_bytes
    for number in sorted(range(len(cards)), key=lambda n: (-scores[n], n)):
        if len(chosen) < most and cards[number].price_bytes <= left:
            chosen.append(number)
            left -= cards[number].price_bytes
    return chosen


def _features(questions: Sequence[str]) -> Any:
    """Hashed words and pairs of words, [questions, NUM_FEATURES]: they need no vocabulary of their own."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(n_features=NUM_FEATURES, ngram_range=(1, 2), alternate_sign=False)
    return hashing.transform(questions)
