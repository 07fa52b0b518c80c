"""Prompts without pictures, answered by each tier alone and by all together: columns of the paper's table I.

Prompts are a file of JSON lines in the schema of MATH-500: a prompt under "problem", "question" or "prompt",
and "answer" where there is one. A right answer ends in the same number or expression, boxed or last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from eval.lab.terminal import table
from tofc.drafting.pace import Pace
from tofc.drafting.speculate import TextModel, speculate
from tofc.errors import UserError
from tofc.familial import FULL
from tofc.language.generate import generate

_PROMPTS = ("problem", "question", "prompt")
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*(?:/\d+)?")


@dataclass(frozen=True)
class TextPrompt:
    """A prompt with its true answer, None where there is none."""

    text: str
    answer: str | None


@dataclass(frozen=True)
class TierRow:
    """What tiers made of all prompts: `right` of `of` (None without answers), tokens, and seconds.

    `equal`: answers that are those of the last tier alone.
    """

    system: str
    right: int | None
    of: int
    tokens: int
    seconds: float
    equal: int

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / max(self.seconds, 1e-9)


def read_prompts(file: Path, limit: int) -> list[TextPrompt]:
    """The first `limit` prompts of a file; UserError for a line that holds none."""
    found: list[TextPrompt] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if len(found) == limit or not line.strip():
            continue
        try:
            row = json.loads(line)
            text = next(row[key] for key in _PROMPTS if key in row)
        except (ValueError, StopIteration, TypeError) as error:
            raise UserError(
                f"{file}, line {number}: no JSON object with one of {', '.join(_PROMPTS)}"
            ) from error
        found.append(TextPrompt(str(text), None if row.get("answer") is None else str(row["answer"])))
    if not found:
        raise UserError(f"{file} holds no prompt")
    return found


def is_right(said: str, answer: str) -> bool:
    """Whether what is said ends in the answer."""
    boxed, numbers = _BOXED.findall(said), _NUMBER.findall(said)
    last = boxed[-1] if boxed else numbers[-1] if numbers else said
    return _plain(last) == _plain((_BOXED.findall(answer) or [answer])[-1])


def _plain(text: str) -> str:
    return re.sub(r"\s|\\left|\\right|\\[!,;]|\$", "", text).rstrip(".").removesuffix(".0").casefold()


def compare(
    sources: Sequence[str], prompts: Sequence[TextPrompt], max_new_tokens: int, drafts: int | None = None
) -> Iterator[TierRow]:
    """Each tier alone, the smallest first, then the first two together, then all three.

    `sources` are models, or MODEL@EXIT for a member of a family. Errors of `speculate`.
    """
    held: dict[str, TextModel] = {}
    members = []
    for source in sources:
        name, _, exit = source.partition("@")
        held[name] = held.get(name) or TextModel.from_pretrained(name)
        members.append((held[name], exit or FULL))
    alone: list[list[tuple[int, ...]]] = []
    for (model, exit), source in zip(members, sources, strict=True):
        said, seconds = [], 0.0
        for prompt in prompts:
            given = generate(
                model.family.language,
                model.family.exit(exit),
                [model.prompt(b"", prompt.text)],
                model.ends,
                max_new_tokens,
                1,
            )[0]
            said.append(given.ids)
            seconds += given.seconds
        alone.append(said)
        yield _row(source, model, prompts, said, seconds, said)
    for count in range(2, len(members) + 1):
        said, seconds, pace = [], 0.0, Pace(drafts)
        for prompt in prompts:
            decoded = speculate(
                members[0][0], b"", prompt.text, members[:count], max_new_tokens=max_new_tokens, pace=pace
            )
            said.append(decoded.answer.tokens)
            seconds += decoded.counts.seconds
        model = members[count - 1][0]
        yield _row(" + ".join(sources[:count]), model, prompts, said, seconds, alone[count - 1])


def _row(
    system: str,
    model: TextModel,
    prompts: Sequence[TextPrompt],
    said: Sequence[tuple[int, ...]],
    seconds: float,
    verifier: Sequence[tuple[int, ...]],
) -> TierRow:
    asked = [(p, t) for p, t in zip(prompts, said, strict=True) if p.answer is not None]
    texts = [(model.tokenizer.decode(t, skip_special_tokens=True), p.answer or "") for p, t in asked]
    right = sum(is_right(text, answer) for text, answer in texts) if asked else None
    equal = sum(a == b for a, b in zip(said, verifier, strict=True))
    return TierRow(system, right, len(asked), sum(map(len, said)), seconds, equal)


def text_table(rows: Sequence[TierRow], prompts: int) -> Table:
    """Accuracy, tokens a second, and how many times as fast as the last tier alone."""
    top = {row.system: row for row in rows if " + " not in row.system}
    lines = []
    for row in rows:
        accuracy = "-" if row.right is None else f"{100 * row.right / row.of:.1f}"
        over = row.rate / top[row.system.split(" + ")[-1]].rate
        lines.append((row.system, accuracy, f"{row.rate:.2f}", f"{over:.2f}", f"{row.equal}/{prompts}"))
    figures = ("accuracy %", "tokens/s", "of its last tier alone", "equal answers")
    return table(f"{prompts} prompts", ["tiers"], figures, lines)
