"""Who the agents are: cards with names, descriptions and endpoints, read from YAML."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tofc.config import DEFAULT_MODEL, QUALITIES
from tofc.errors import ConfigError

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
