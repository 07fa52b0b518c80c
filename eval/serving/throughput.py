"""Answers a second of one server that decodes requests together, over one that takes them one at a time.

Or of replicas under Ray Serve, over one server.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from eval.serving.process import Server, running_server
from eval.serving.questions import DESCRIBE, LoadQuestion, questions
from tofc.serving.client import RemoteEdge

# What is asked: benchmark questions have answers of one to three tokens, descriptions some fifty.
KINDS = ("short", "mixed", "describe")


def measure(
    seconds: float,
    clients: int,
    batch: int,
    rounds: int = 3,
    threads: int | None = None,
    replicas: int | None = None,
) -> list[dict[str, Any]]:
    """A row for each kind of question: answers a second of two servers, and their ratio.

    The first takes one request at a time, the second batches of `batch`; with `replicas` both batch, and the
    second has so many processes under Ray Serve. They take turns, `seconds` each, so that whatever else the
    machine does meets both alike. Answers are compared with those of `tofc.Edge`: RuntimeError where one is
    another.
    """
    everything = questions(8, per_scene=4, rates=((64, 4),))
    pools = {
        "short": [question for question in everything if question.text != DESCRIBE],
        "mixed": everything,  # four short ones and a description of each picture
        "describe": [question for question in everything if question.text == DESCRIBE],
    }
    options = ["--packets-only", "--deadline", "600", *(["--threads", str(threads)] if threads else [])]
    both = {"one at a time": ["--batch", "1"], "batched": ["--batch", str(batch)]}
    if replicas is not None:
        both = {
            "one server": both["batched"],
            "replicas": [*both["batched"], "--ray", "--replicas", f"{replicas}"],
        }
    with TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {
            name: stack.enter_context(
                running_server(Path(folder), *more, *options, patience=300, RAY_worker_niceness="0")
            )
            for name, more in both.items()
        }
        return [_row(kind, pools[kind], servers, seconds, clients, rounds) for kind in KINDS]


def _row(
    kind: str, pool: list[LoadQuestion], servers: dict[str, Server], seconds: float, clients: int, rounds: int
) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(rounds):
        for name, server in servers.items():
            rates[name].append(_rate(server, pool, seconds, clients, seed=number))
    medians = {name: round(float(np.median(seen)), 2) for name, seen in rates.items()}
    first, second = medians.values()
    return {"questions": kind, **medians, "ratio": round(second / first, 2)}


def _rate(server: Server, pool: list[LoadQuestion], seconds: float, clients: int, seed: int) -> float:
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
