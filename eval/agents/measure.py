"""Every system's answers to pictures, as rows, and from rows to accuracies with intervals and leads.

Systems, where N is a number of agents, the best first by the selector's scores, and A an agent's name:
`A` and `server` alone; `majority N`, `confidence N` and `together N`, the server with N answers in its
prompt; `together without A` and `together with A alone` (table VI); `A revised` (table IV). A failed answer
is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow
from rich.table import Table

from eval.asking.answering import AskedPicture, ScoredQuestion, SweepData
from eval.lab.intervals import Estimate, Tallies, resamples
from eval.lab.terminal import interval, percent, table
from tofc.agents import AgentReply, Agents, confidence_vote, majority_vote
from tofc.agents.aggregation import aggregate_prompt, revise_prompt
from tofc.agents.endpoints import MemberEndpoint, Sight, collect
from tofc.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AgentsEvalConfig:
    """Agents on a benchmark: `agents` is a configuration of `tofc agents`, `limit` the number of pictures.

    `fit_data` has other pictures, of which `--fit` learns the selector from the first `fit_limit`;
    `train_data` is a corpus of training, about `train_limit` pictures of which `--cache` asks.
    """

    name: str
    agents: str
    data: SweepData
    limit: int
    fit_data: SweepData | None = None
    fit_limit: int = 100
    train_data: SweepData | None = None
    train_limit: int = 400

    def __post_init__(self) -> None:
        if self.limit < 2 or min(self.fit_limit, self.train_limit) < 1:
            raise ConfigError(
                f"limit is {self.limit}, fit_limit {self.fit_limit}, train_limit {self.train_limit}: give at "
                "least 2 pictures, and 1 of the others"
            )
        if self.fit_data == self.data:
            raise ConfigError("fit_data is the data to be judged by: name another split")


@dataclass(frozen=True)
class AgentsRow:
    """What one system answered to one question: `right` of `of`; `fault` says why there is no answer."""

    picture: str
    question: int
    category: str
    system: str
    right: float
    of: float
    answer: str
    fault: str


AT_ONCE = 8  # questions on their way to one server


@dataclass(frozen=True)
class Case:
    """One question about one picture, and what each agent says to it alone, in the order of the cards."""

    picture: str
    number: int
    sight: Sight
    question: ScoredQuestion
    replies: tuple[AgentReply, ...] = ()


def ask_many(agents: Agents, name: str, cases: Sequence[Case], prompts: Sequence[str]) -> list[AgentReply]:
    """One agent's, or the server's, replies to many prompts: in batches where it is in this process."""
    endpoint = agents.endpoints[name]
    if isinstance(endpoint, MemberEndpoint):
        most = max(case.question.max_new_tokens for case in cases)
        seen: list[tuple[Any, str]] = [(c.sight.packet, p) for c, p in zip(cases, prompts, strict=True)]
        answers = endpoint.edge.answer_many(seen, exit=endpoint.exit, max_new_tokens=most)
        return [AgentReply.of(name, answer, 0.0) for answer in answers]
    requests = [agents.request(name, case.sight, p) for case, p in zip(cases, prompts, strict=True)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [reply for (reply,) in pool.map(lambda request: collect([request]), requests)]


def ask_alone(agents: Agents, pictures: Sequence[AskedPicture]) -> list[Case]:
    """All questions about these pictures, with what each agent alone says."""
    cases = []
    for picture in pictures:
        sight = agents.see(picture.image)
        cases += [Case(picture.name, n, sight, question) for n, question in enumerate(picture.questions)]
    prompts = [case.question.prompt for case in cases]
    said = [ask_many(agents, card.name, cases, prompts) for card in agents.config.agents]
    whole = zip(cases, zip(*said, strict=True), strict=True)
    return [Case(case.picture, case.number, case.sight, case.question, tuple(r)) for case, r in whole]


def right_alone(cases: Sequence[Case]) -> np.ndarray:
    """The share of each question that each agent got right, [cases, agents], for the selector to learn."""
    shares = [[np.divide(*_score(case, reply)) for reply in case.replies] for case in cases]
    return np.array(shares)


class Measurement:
    """Rows of all systems about some pictures."""

    def __init__(self, agents: Agents, pictures: Sequence[AskedPicture]) -> None:
        self.agents, self.cases = agents, ask_alone(agents, pictures)
        self.rows: list[AgentsRow] = []
        scores = agents.selector.scores([case.question.prompt for case in self.cases])
        order = np.argsort(-scores, axis=1, kind="stable")  # the best agent first
        self.ranked = [[case.replies[n] for n in row] for case, row in zip(self.cases, order, strict=True)]

    def run(self, numbers: Sequence[int]) -> list[AgentsRow]:
        """All of it; `numbers` are the N of the systems that have one."""
        names = [card.name for card in self.agents.config.agents]
        for number, name in enumerate(names):
            self._add(name, [case.replies[number] for case in self.cases])
        self._together("server", [[] for _ in self.cases])
        for count in numbers:
            first = [said[:count] for said in self.ranked]
            self._add(f"majority {count}", [AgentReply("", majority_vote(said)) for said in first])
            self._add(f"confidence {count}", [AgentReply("", confidence_vote(said)) for said in first])
            whole = self._together(f"together {count}", first)
        for name in names:
            others = [[one for one in said if one.name != name] for said in self.ranked]
            self._together(f"together without {name}", others)
            alone = [[one for one in said if one.name == name] for said in self.ranked]
            self._together(f"together with {name} alone", alone)
        for number, name in enumerate(names):
            self._revised(number, name, whole)
        return self.rows

    def _together(self, system: str, said: Sequence[Sequence[AgentReply]]) -> list[AgentReply]:
        """The server with these answers in its prompt."""
        pairs = zip(self.cases, said, strict=True)
        prompts = [aggregate_prompt(case.question.prompt, replies) for case, replies in pairs]
        replies = ask_many(self.agents, self.agents.config.server.name, self.cases, prompts)
        self._add(system, replies)
        return replies

    def _revised(self, number: int, name: str, whole: Sequence[AgentReply]) -> None:
        """An agent that has seen what all together came to; its first answer where it fails now."""
        prompts = [
            revise_prompt(case.question.prompt, case.replies[number].text, reply.text)
            for case, reply in zip(self.cases, whole, strict=True)
        ]
        replies = ask_many(self.agents, name, self.cases, prompts)
        firsts = (case.replies[number] for case in self.cases)
        self._add(
            f"{name} revised",
            [new if new.is_answer else old for new, old in zip(replies, firsts, strict=True)],
        )

    def _add(self, system: str, replies: Sequence[AgentReply]) -> None:
        for case, reply in zip(self.cases, replies, strict=True):
            right, of = _score(case, reply)
            where = (case.picture, case.number, case.question.category, system)
            self.rows.append(AgentsRow(*where, right, of, reply.text, reply.fault))


def _score(case: Case, reply: AgentReply) -> tuple[int, int]:
    return case.question.score(reply.text if reply.is_answer else "")


SERVER = "server"


@dataclass(frozen=True)
class SystemAccuracy:
    """One system: accuracy over all questions, its lead over its rivals, accuracy by category, failures.

    Leads are of the same resamples of pictures. The best agent is the one that is best on these very
    questions: a rival that could not be known beforehand. `over_simpler` is the lead of the server with N
    answers over the majority of the same, and of a revised agent over its first answers.
    """

    system: str
    accuracy: Estimate
    over_best_agent: Estimate
    over_server: Estimate
    over_simpler: Estimate | None
    by_category: dict[str, float]
    failed: int


def analyse(rows: pyarrow.Table, agents: Sequence[str], seed: int = 0) -> tuple[str, list[SystemAccuracy]]:
    """The best agent's name, and all systems in the order of the rows."""
    tallies = Tallies.read(rows)
    tallies.check_equal_questions("the rows")
    weights = resamples(len(tallies.pictures), seed=seed)
    right, of = (np.sum(list(sums.values()), axis=0) for sums in (tallies.right, tallies.of))
    shares = (weights @ right) / (weights @ of)  # [1 + resamples, systems]
    names = [name for (name,) in tallies.systems]
    best = max(agents, key=lambda name: shares[0, names.index(name)])
    by_category = {one: tallies.accuracy(weights[:1], one)[0] for one in sorted(tallies.of)}
    failed = [
        name
        for name, fault in zip(rows["system"].to_pylist(), rows["fault"].to_pylist(), strict=True)
        if fault
    ]
    found = []
    for number, name in enumerate(names):
        over = {other: Estimate.of(shares[:, number] - shares[:, place]) for place, other in enumerate(names)}
        own = {one: float(share[number]) for one, share in by_category.items()}
        found.append(
            SystemAccuracy(
                name,
                Estimate.of(shares[:, number]),
                over[best],
                over[SERVER],
                over.get(_simpler(name)),
                own,
                failed.count(name),
            )
        )
    return best, found


def _simpler(system: str) -> str:
    """What does the same as a system without a model for it: a vote of as many, an agent alone; or ""."""
    simpler = system.replace("together", "majority", 1).removesuffix(" revised")
    return simpler if simpler != system else ""


def accuracy_table(found: Sequence[SystemAccuracy], best: str, title: str) -> Table:
    """One line a system, in percent."""
    categories = list(found[0].by_category)
    rows = (
        [
            one.system,
            percent(one.accuracy.value),
            interval(one.accuracy),
            _lead(one.over_best_agent),
            _lead(one.over_server),
            _lead(one.over_simpler),
            *(percent(one.by_category[category], 0) for category in categories),
            str(one.failed or ""),
        ]
        for one in found
    )
    leads = (f"- {best}", "- server", "- vote or alone")
    figures = ("correct %", "95 % interval", *leads, *categories, "failed")
    return table(title, ["system"], figures, rows)


def _lead(found: Estimate | None) -> str:
    if found is None:
        return ""
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
