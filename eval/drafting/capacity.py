"""What one edge serves when it has all it can do: with devices that draft for it, and without.

Drafting makes an answer come sooner; whether the edge can serve more of them is another question. Its pass
over drafts computes what falls as well as what stands, and a pass for one device is not one for many
(arXiv 2606.25091 finds that this decides whether drafting over a network pays).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from eval.drafting.tiers import ModelShape, counts_of
from eval.lab.terminal import table
from eval.latency.config import Rates
from eval.latency.count import Work
from eval.serving.process import DESCRIBE, LoadQuestion, Server, questions, running_server
from tofc import RemoteEdge
from tofc.errors import UserError

KINDS = ("short", "describe")
MOST_DRAFTS = 16  # of a counted round


@dataclass(frozen=True)
class ServedLoad:
    """Answers of one kind that a real server gave to devices of one kind, and its processor's seconds."""

    kind: str
    draft: str | None
    answers: int
    tokens: int
    processor_seconds: float

    @property
    def answers_per_core_second(self) -> float:
        """What each second of a core of the edge serves."""
        return self.answers / self.processor_seconds


@dataclass(frozen=True)
class CountedLoad:
    """Tokens a second of an accelerator that answers `rows` at once: alone, and with `drafts` a round."""

    model: str
    rows: int
    share: float
    alone: float
    drafted: float
    drafts: int

    @property
    def ratio(self) -> float:
        """Capacity with drafting devices over that without."""
        return self.drafted / self.alone


def serve_load(
    model: str, drafters: Sequence[str], clients: int, pictures: int, batch: int = 16
) -> Iterator[ServedLoad]:
    """Short questions and descriptions, asked by `clients` at once: without drafts, then drafted by members.

    The server is a process of its own, whose processor time is read from the system: that of devices is not
    in it. Each system is asked once before it is measured. Raises `UserError` where answers are not those of
    `tofc.Edge`, or the system does not tell what a process has taken (other than Linux).
    """
    pool = questions(pictures, per_scene=4, rates=((16, 4),), model=model)
    options = ["--model", model, "--packets-only", "--batch", f"{batch}", "--deadline", "600"]
    with TemporaryDirectory() as folder, running_server(Path(folder), *options) as server:
        for draft in (None, *drafters):
            for kind in KINDS:
                asked = [q for q in pool if (q.text == DESCRIBE) == (kind == "describe")]
                yield _serve(server, model, kind, draft, asked, clients)


def _serve(
    server: Server, model: str, kind: str, draft: str | None, asked: Sequence[LoadQuestion], clients: int
) -> ServedLoad:
    with RemoteEdge(server.url, model, draft=draft, timeout=600, retries=0, seed=0) as edge:

        def answer(question: LoadQuestion) -> int:
            given = edge.answer(question.packet, question.text)
            if given.text != question.expected:
                raise UserError(f"{question.text} {given.text!r}, not {question.expected!r}")
            return len(given.tokens)

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(answer, islice(asked, clients)))  # connections, and what is made once
            before = server.processor_seconds
            tokens = list(pool.map(answer, asked))
            taken = server.processor_seconds - before
    if taken <= 0:
        raise UserError("this system does not tell what a process has taken; measure capacity on Linux")
    return ServedLoad(kind, draft, len(asked), sum(tokens), taken)


def count_load(
    shape: ModelShape, rates: Rates, context: int, rows: Sequence[int], shares: Sequence[float]
) -> Iterator[CountedLoad]:
    """The same by operations and bytes, at the number of drafts that serves the most.

    A pass over `rows` answers reads the weights once, and each answer's keys and values; drafts stand one by
    one with probability `share`, and a round brings those that stand and one token more. What devices take,
    and the way, is not the edge's: other answers fill the gap as long as memory holds them.
    """
    counts = counts_of(shape)
    bare, one = counts.next_token(0), counts.next_token(context)

    def tokens_per_second(answers: int, drafts: int, share: float) -> float:
        work = Work(answers * (drafts + 1) * one.flops, bare.read + answers * (one.read - bare.read))
        brought = sum(share**stood for stood in range(drafts + 1))
        return answers * brought / work.timing(rates).seconds

    for number in rows:
        alone = tokens_per_second(number, 0, 0.0)
        for share in shares:
            drafted = {n: tokens_per_second(number, n, share) for n in range(1, MOST_DRAFTS + 1)}
            best = max(drafted, key=drafted.__getitem__)
            yield CountedLoad(shape.name, number, share, alone, drafted[best], best)


def served_table(model: str, clients: int, rows: Sequence[ServedLoad]) -> Table:
    """What was served for real, as people read it."""
    columns = (
        "answers",
        "tokens",
        "edge's processor, ms an answer",
        "answers per core second",
        "of no drafts",
    )
    alone = {row.kind: row.answers_per_core_second for row in rows if row.draft is None}
    lines = [
        (
            f"{row.kind}, {'no drafts' if row.draft is None else f'{row.draft} drafts'}",
            f"{row.answers}",
            f"{row.tokens}",
            f"{1000 * row.processor_seconds / row.answers:.1f}",
            f"{row.answers_per_core_second:.1f}",
            f"{row.answers_per_core_second / alone[row.kind]:.2f}",
        )
        for row in rows
    ]
    return table(f"{model}, {clients} devices at once", ["asked"], columns, lines)


def counted_table(rows: Sequence[CountedLoad]) -> Table:
    """What one shape would serve, as people read it."""
    shares = list(dict.fromkeys(row.share for row in rows))
    lines = []
    for number in dict.fromkeys(row.rows for row in rows):
        here = [row for row in rows if row.rows == number]
        lines.append(
            (f"{number}", f"{here[0].alone:.0f}", *(f"{row.ratio:.2f} ({row.drafts})" for row in here))
        )
    title = f"{rows[0].model}, counted: capacity with drafts over that without (drafts a round)"
    return table(
        title, ["answers at once"], ["tokens/s alone", *(f"{100 * s:g} % stand" for s in shares)], lines
    )
