"""One question to a group of agents, in four steps: select, answer, aggregate, revise.

Source: AI Flow (arXiv 2506.12479), section IV-A, details.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofc.agents.aggregation import aggregate_prompt, confidence_vote, majority_vote, revise_prompt
from tofc.agents.cards import AgentCard, AgentsConfig, LearnedSelector, Selector, TfidfSelector, choose
from tofc.agents.endpoints import AgentReply, AgentRequest, Endpoint, Sight, collect, look, open_endpoints
from tofc.clock import Stopwatch
from tofc.config import load_yaml
from tofc.errors import EdgeUnreachable, UserError
from tofc.images import MAX_PIXELS, open_image

if TYPE_CHECKING:
    from tofc.device import Device


@dataclass(frozen=True)
class Collaboration:
    """What came of a question.

    `selected` are the agents that were asked with their scores, `replies` what each said, `aggregate` what
    the server made of it, which is the `text` of all, and `revised` what each agent says in the light of
    that. `packet_bytes` is the one packet of the picture, 0 where nobody sees packets; `seconds` of each step
    by its name, "encode" before them.
    """

    selected: Mapping[str, float]
    replies: tuple[AgentReply, ...]
    aggregate: AgentReply
    revised: tuple[AgentReply, ...]
    packet_bytes: int
    seconds: Mapping[str, float]

    @property
    def text(self) -> str:
        """The answer of all together."""
        return self.aggregate.text

    @property
    def traffic(self) -> dict[str, int]:
        """Bytes that travelled in each step, both ways."""
        steps = {"answer": self.replies, "aggregate": (self.aggregate,), "revise": self.revised}
        return {step: sum(one.sent + one.received for one in said) for step, said in steps.items()}


class Agents:
    """A group of agents and the server that selects them, asks them and aggregates what they say.

    `endpoints` are by the names of the cards; `selector` gives scores in the order of the agents' cards.
    """

    def __init__(
        self,
        config: AgentsConfig,
        endpoints: Mapping[str, Endpoint],
        device: Device | None,
        selector: Selector | None = None,
    ) -> None:
        self.config, self.endpoints, self.device = config, endpoints, device
        self.selector = TfidfSelector(config.agents) if selector is None else selector

    @classmethod
    def from_config(cls, source: str | Path | AgentsConfig) -> Agents:
        """Opens the agents of a configuration: a YAML file, the name of a bundled one, or the dataclass.

        Raises ConfigError and CheckpointError for what it names and is not there.
        """
        config = source if isinstance(source, AgentsConfig) else load_yaml(source, AgentsConfig)
        selector: Selector | None = None
        if config.selector is not None:
            selector = LearnedSelector.load(config.selector, config.agents)
        device = None
        if any(card.sees == "packet" for card in config.everybody):
            from tofc.device import Device

            device = Device.from_pretrained(config.device)
        needed = config.everybody if config.aggregate == "server" else config.agents
        return cls(config, open_endpoints(needed), device, selector)

    def __enter__(self) -> Agents:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections."""
        for endpoint in self.endpoints.values():
            endpoint.close()

    def ask(self, image: Any, question: str, *, max_pixels: int = MAX_PIXELS) -> Collaboration:
        """Takes a question about a picture (anything that `Device.encode` takes) through all four steps.

        Agents that fail or are late are left out, with their fault in their reply. Raises UserError for an
        empty question, ImageError for what is no picture, EdgeUnreachable where neither an agent nor the
        server answers.
        """
        if not question.strip():
            raise UserError("the question is empty; ask something about the picture")
        watch, seconds = Stopwatch(), dict[str, float]()
        sight = self.see(image, max_pixels)
        seconds["encode"] = watch.lap()
        selected = self.select(question)
        seconds["select"] = watch.lap()
        replies = self.answer(sight, question, list(selected))
        seconds["answer"] = watch.lap()
        aggregate = self.aggregate(sight, question, replies)
        seconds["aggregate"] = watch.lap()
        revised = self.revise(sight, question, replies, aggregate) if self.config.revise else ()
        seconds["revise"] = watch.lap()
        size = 0 if sight.packet is None else len(sight.packet)
        return Collaboration(selected, tuple(replies), aggregate, tuple(revised), size, seconds)

    def see(self, image: Any, max_pixels: int = MAX_PIXELS) -> Sight:
        """The picture as the agents see it: encoded once."""
        opened = open_image(image, max_pixels)
        most = opened.width * opened.height
        quality = self.config.quality
        packet = None if self.device is None else self.device.encode(opened, quality, max_pixels=most)
        return look(opened, packet, self.config.everybody)

    def select(self, question: str) -> dict[str, float]:
        """The agents to ask, the best first, with their scores; UserError where none may be asked."""
        scores = self.selector.scores([question])[0].tolist()
        config = self.config
        chosen = choose(scores, config.agents, config.select, config.max_price_bytes)
        if not chosen:
            raise UserError(
                f"max_price_bytes is {config.max_price_bytes}, and every agent costs more: raise it"
            )
        return {config.agents[number].name: scores[number] for number in chosen}

    def answer(self, sight: Sight, question: str, names: Sequence[str]) -> list[AgentReply]:
        """What these agents say, asked at the same time, each within its deadline."""
        return collect([self.request(name, sight, question) for name in names])

    def aggregate(self, sight: Sight, question: str, replies: Sequence[AgentReply]) -> AgentReply:
        """One answer out of many: the server's model with the answers in its prompt, or a vote.

        Where the server does not answer, the majority does, and the reply's name says so.
        """
        server = self.config.server.name
        if self.config.aggregate == "server":
            prompt = aggregate_prompt(question, replies)
            (reply,) = collect([self.request(server, sight, prompt)])
            if reply.is_answer:
                return reply
            text, who = majority_vote(replies), f"majority vote, since {server} failed: {reply.fault}"
        elif self.config.aggregate == "majority":
            text, who = majority_vote(replies), "majority vote"
        else:
            text, who = confidence_vote(replies), "confidence vote"
        if not text:
            faults = "; ".join(f"{one.name}: {one.fault}" for one in replies)
            raise EdgeUnreachable(f"nobody answered ({who}; {faults}); see that the agents run")
        return AgentReply(who, text)

    def revise(
        self, sight: Sight, question: str, replies: Sequence[AgentReply], aggregate: AgentReply
    ) -> list[AgentReply]:
        """What each agent that answered says when it sees what all came to; its first answer if it fails."""
        first = [reply for reply in replies if reply.is_answer]
        revised = collect(
            [
                self.request(one.name, sight, revise_prompt(question, one.text, aggregate.text))
                for one in first
            ]
        )
        return [
            new if new.is_answer else replace(new, text=old.text)
            for old, new in zip(first, revised, strict=True)
        ]

    def card(self, name: str) -> AgentCard:
        """The card of an agent, or of the server."""
        return next(card for card in self.config.everybody if card.name == name)

    def request(self, name: str, sight: Sight, prompt: str) -> AgentRequest:
        """What asks this agent, or the server, when it is called."""
        card = self.card(name)
        asked = f"{card.role}\n\n{prompt}" if card.role else prompt
        ask = functools.partial(self.endpoints[name].ask, sight, asked)
        return AgentRequest(name, ask, card.deadline_ms / 1e3)
