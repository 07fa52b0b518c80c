"""What the server and the agents learn from: questions of training, with what the agents answered to them.

The answers are written once (`tofc eval agents CONFIG --cache FILE`); a training then reads them instead of
asking. Source: AI Flow (arXiv 2506.12479), section IV-A, where the aggregating server and the revising
devices are fine-tuned.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from eval.agents.measure import Case, ask_many
from eval.asking.answering import ScoredQuestion
from tofc.agents import AgentReply, Agents
from tofc.agents.aggregation import aggregate_prompt, revise_prompt
from tofc.errors import UserError
from tofc.training.data import Corpus, Example, Turn, load_corpus
from tofc.writing import write_whole

VALIDATION_SHARE = 0.1  # of the pictures, the last ones
MAX_NEW_TOKENS = 8


@dataclass(frozen=True)
class AskedTurn:
    """A question of training with its right answer, each agent's, and the server's with these before it."""

    prompt: str
    answer: str
    category: str
    replies: tuple[AgentReply, ...]
    aggregate: str


@dataclass(frozen=True)
class AskedExample:
    """Picture `index` of the training split of a corpus, as `seed` draws it, and what was asked about it."""

    index: int
    seed: int
    turns: tuple[AskedTurn, ...]


def ask_pictures(
    agents: Agents, corpus: Corpus[Any], numbers: Sequence[int], seed: int
) -> Iterator[AskedExample]:
    """Asks the agents, and then the server, about some pictures of training.

    All questions but those for a description: answers of many words are neither voted on nor quoted whole.
    """
    names = [card.name for card in agents.config.agents]
    for index in numbers:
        example = corpus.picture("train", index, seed)
        turns = [t for t in example.turns if not t.continues and not t.category.startswith("describe/")]
        if not turns:
            continue
        sight = agents.see(Image.fromarray(np.ascontiguousarray(example.pixels.transpose(1, 2, 0))))
        cases = [Case(str(index), number, sight, _question(turn)) for number, turn in enumerate(turns)]
        prompts = [turn.prompt for turn in turns]
        said = list(zip(*(ask_many(agents, name, cases, prompts) for name in names), strict=True))
        aggregated = ask_many(
            agents,
            agents.config.server.name,
            cases,
            [aggregate_prompt(prompt, replies) for prompt, replies in zip(prompts, said, strict=True)],
        )
        yield AskedExample(
            index,
            seed,
            tuple(
                AskedTurn(turn.prompt, turn.answer, turn.category, replies, reply.text)
                for turn, replies, reply in zip(turns, said, aggregated, strict=True)
            ),
        )


def _question(turn: Turn) -> ScoredQuestion:
    return ScoredQuestion("free", turn.category, turn.prompt, turn.answer, MAX_NEW_TOKENS, lambda _: (0, 1))


def write_answers(file: Path, examples: Sequence[AskedExample]) -> None:
    """One line of JSON a picture."""
    lines = (json.dumps(asdict(example), ensure_ascii=False) for example in examples)
    write_whole(file, "".join(f"{line}\n" for line in lines))


def read_answers(file: str | Path) -> list[AskedExample]:
    """What `write_answers` wrote; UserError where there is none."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}): write it with tofc eval agents CONFIG --cache {file}"
        ) from error
    examples = []
    for line in lines:
        told = json.loads(line)
        turns = (
            AskedTurn(**{**turn, "replies": tuple(AgentReply(**reply) for reply in turn["replies"])})
            for turn in told["turns"]
        )
        examples.append(AskedExample(told["index"], told["seed"], tuple(turns)))
    return examples


class AgentsCorpus:
    """A corpus of training for the server (`learner` "server") or for the agents ("agents").

    `cache` has the answers about pictures of the corpus `source` with its `options`. The server reads up to
    `most` answers in a drawn order, the agents their own and the aggregate, in the category "revise/NAME"; of
    each picture `questions` are drawn. A share `plain` of the pictures is any of that corpus, with its own
    questions and nothing before them: what a model knows of pictures fades with a few hundred seen again.
    """

    def __init__(
        self,
        cache: str,
        source: str,
        options: Mapping[str, Any],
        learner: Literal["server", "agents"] = "server",
        questions: int = 3,
        most: int = 3,
        plain: float = 0.25,
    ) -> None:
        self.cache, self.learner, self.questions, self.most, self.plain = (
            cache,
            learner,
            questions,
            most,
            plain,
        )
        self.corpus: Corpus[Any] = load_corpus(source, **options)

    @cached_property
    def examples(self) -> dict[str, list[AskedExample]]:
        """What was asked, by split."""
        every = read_answers(self.cache)
        held = max(1, round(VALIDATION_SHARE * len(every)))
        if len(every) <= held:
            raise UserError(f"{self.cache} has {len(every)} pictures; ask about more with --limit")
        return {"train": every[:-held], "validation": every[-held:]}

    def num_pictures(self, split: str) -> int | None:
        """None for training: each time it draws other questions and answers."""
        return None if split == "train" else len(self.examples["validation"])

    def picture(self, split: str, index: int, seed: int) -> Example:
        """Picture `index`, with questions drawn by (seed, split, index)."""
        rng = np.random.default_rng([seed, int(split == "train"), index])
        if split == "train" and rng.random() < self.plain:
            return self.corpus.picture(split, index, seed)
        examples = self.examples["train" if split == "train" else "validation"]
        asked = examples[index % len(examples)]
        chosen = rng.permutation(len(asked.turns))[: self.questions]
        turns = tuple(self._turn(asked.turns[number], rng) for number in chosen)
        return replace(self.corpus.picture("train", asked.index, asked.seed), turns=turns)

    def _turn(self, asked: AskedTurn, rng: np.random.Generator) -> Turn:
        order = [asked.replies[number] for number in rng.permutation(len(asked.replies))]
        if self.learner == "agents":
            own = order[0]
            prompt = revise_prompt(asked.prompt, own.text, asked.aggregate)
            return Turn(prompt, asked.answer, f"revise/{own.name}")
        count = int(rng.integers(1, self.most + 1))
        return Turn(aggregate_prompt(asked.prompt, order[:count]), asked.answer, asked.category)
