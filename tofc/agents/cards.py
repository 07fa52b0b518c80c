"""Who the agents are, by cards that are read from YAML, and whom to ask: a score for each by the question.

Scores are learned, or given by the words of the descriptions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tofc.config import DEFAULT_MODEL, QUALITIES
from tofc.errors import ConfigError, UserError, needs_extra
from tofc.writing import whole_file

SEES = ("packet", "picture", "nothing")
AGGREGATES = ("server", "majority", "confidence")
_NAME = r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,39}"


@dataclass(frozen=True)
class AgentCard:
    """One agent, or the server that aggregates.

    `description` says what it is good at: the server selects by that. `url` is any server's that speaks
    OpenAI's protocol, none for a model in this process; `model` is its name there, or a checkpoint here;
    `exit` the member of its family that answers. `key` names the environment variable with its API key.

    `sees` is what it gets of the picture: the packet, an ordinary picture (JPEG), or nothing. `role` stands
    before every question. An answer has `deadline_ms` in all, and asking costs `price_bytes`, of which a
    query may spend `AgentsConfig.max_price_bytes`.
    """

    name: str
    description: str = ""
    model: str = DEFAULT_MODEL
    exit: str = "full"
    url: str | None = None
    key: str | None = None
    sees: str = "packet"
    role: str = ""
    deadline_ms: float = 10_000.0
    price_bytes: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(_NAME, self.name):
            raise ConfigError(f"name {self.name!r}: give an agent 1 to 40 letters, digits, spaces, _.-")
        if self.sees not in SEES:
            raise ConfigError(f"{self.name}: sees is {self.sees!r}; choose one of {', '.join(SEES)}")
        if self.url is None and (self.sees != "packet" or self.key is not None):
            raise ConfigError(f"{self.name}: a model in this process sees packets, without a key; give a url")
        if not 0 < self.deadline_ms < 3_600_000 or self.price_bytes < 0:
            raise ConfigError(
                f"{self.name}: deadline_ms is {self.deadline_ms:g}, price_bytes {self.price_bytes}; give "
                "above 0 (at most an hour) and at least 0"
            )


@dataclass(frozen=True, kw_only=True)
class AgentsConfig:
    """A group of agents and their server (arXiv 2506.12479, section IV-A).

    device: the checkpoint, or export, that makes the packet, at `quality` (none: its own).
    select: so many agents are asked at most; selector: a file that `tofc eval agents --fit` wrote, none for
    TF-IDF over the descriptions; max_price_bytes: what those who are asked may cost together.
    aggregate: "server" (its model, with the answers in its prompt), or a vote, "majority" or "confidence".
    revise: whether the agents see the aggregate and may change their answers.
    """

    agents: tuple[AgentCard, ...]
    server: AgentCard = AgentCard("server")
    device: str = DEFAULT_MODEL
    quality: int | None = None
    select: int = 3
    selector: Path | None = None
    max_price_bytes: int | None = None
    aggregate: str = "server"
    revise: bool = True

    def __post_init__(self) -> None:
        names = [card.name for card in (*self.agents, self.server)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not self.agents or twice:
            raise ConfigError(
                f"agents: the name {twice[0]} occurs twice" if twice else "agents is empty: name at least one"
            )
        unsaid = [card.name for card in self.agents if not card.description.strip()]
        if unsaid:
            raise ConfigError(f"{unsaid[0]} has no description: say what it is good at, to be chosen by")
        if self.select < 1:
            raise ConfigError(f"select is {self.select}; give the number of agents to ask, at least 1")
        if self.quality is not None and self.quality not in QUALITIES:
            raise ConfigError(f"quality is {self.quality}; choose {QUALITIES[0]} to {QUALITIES[-1]}")
        if self.max_price_bytes is not None and self.max_price_bytes < 0:
            raise ConfigError(f"max_price_bytes is {self.max_price_bytes}; give at least 0")
        if self.aggregate not in AGGREGATES:
            raise ConfigError(f"aggregate is {self.aggregate!r}; choose one of {', '.join(AGGREGATES)}")

    @property
    def everybody(self) -> tuple[AgentCard, ...]:
        """The agents and the server."""
        return (*self.agents, self.server)


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
