"""Answers a second of one server that decodes requests together, over one that takes them one at a time."""

from __future__ import annotations

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from eval.serving.process import Server, running_server
from eval.serving.questions import DESCRIBE, Question, questions
from tofc.serving.client import RemoteEdge

# What is asked: benchmark questions have answers of one to three tokens, descriptions some fifty.
KINDS = ("short", "mixed", "describe")


def measure(
    seconds: float, clients: int, batch: int, rounds: int = 3, threads: int | None = None
) -> list[dict[str, Any]]:
    """A row for each kind of question: answers a second with batches of `batch` and of one, and their ratio.

    Two servers take turns, `seconds` each, so that whatever else the machine does meets both alike. Answers
    are compared with those of `tofc.Edge`; RuntimeError where one differs.
    """
    everything = questions(8, per_scene=4, rates=((64, 4),))
    pools = {
        "short": [question for question in everything if question.text != DESCRIBE],
        "mixed": everything,  # four short ones and a description of each picture
        "describe": [question for question in everything if question.text == DESCRIBE],
    }
    options = [
        "--packets-only",
        "--deadline",
        "600",
        *([] if threads is None else ["--threads", str(threads)]),
    ]
    with TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {
            size: stack.enter_context(running_server(Path(folder), "--batch", str(size), *options))
            for size in (1, batch)
        }
        return [_row(kind, pools[kind], servers, seconds, clients, rounds) for kind in KINDS]


def _row(
    kind: str, pool: list[Question], servers: dict[int, Server], seconds: float, clients: int, rounds: int
) -> dict[str, Any]:
    rates: dict[int, list[float]] = {size: [] for size in servers}
    for number in range(rounds):
        for size, server in servers.items():
            rates[size].append(_rate(server, pool, seconds, clients, seed=number))
    alone, batched = (float(np.median(rates[size])) for size in servers)
    return {
        "questions": kind,
        "one_at_a_time": round(alone, 2),
        "batched": round(batched, 2),
        "ratio": round(batched / alone, 2),
    }


def _rate(server: Server, pool: list[Question], seconds: float, clients: int, seed: int) -> float:
    """Answers a second to `clients` that ask one question after another."""
    begin = time.monotonic()
    until = begin + seconds

    def client(number: int) -> int:
        chance = random.Random(seed * 1000 + number)
        count = 0
        with RemoteEdge(server.url, timeout=600, retries=20, seed=number) as edge:
            while time.monotonic() < until:
                question = chance.choice(pool)
                answer = edge.answer(question.packet, question.text)
                if answer.text != question.expected:
                    raise RuntimeError(f"{question.text} {answer.text!r}, not {question.expected!r}")
                count += 1
        return count

    with ThreadPoolExecutor(clients) as executor:
        answered = sum(executor.map(client, range(clients)))
    return answered / (time.monotonic() - begin)


def main(seconds: float, clients: int, batch: int, threads: int | None) -> int:
    """Measures and prints."""
    rows = measure(seconds, clients, batch, threads=threads)
    print(f"{'questions':>10} {'one at a time':>14} {'batched':>9} {'ratio':>6}   (answers a second)")
    for row in rows:
        print(f"{row['questions']:>10} {row['one_at_a_time']:>14} {row['batched']:>9} {row['ratio']:>6}")
    print(json.dumps({"benchmark": "serving throughput", "clients": clients, "batch": batch, "rows": rows}))
    return 0
