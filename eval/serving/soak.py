"""Many clients, some of them broken: every good request gets its own answer, and memory stays flat."""

from __future__ import annotations

import json
import math
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from eval.serving.process import LoadQuestion, Server, questions, start_server
from eval.serving.proxy import FaultyProxy
from tofc.errors import EdgeUnreachable, UserError
from tofc.familial import family
from tofc.network.messages import data_url
from tofc.serving.client import RemoteEdge

_CHAT = "/v1/chat/completions"
_LAST_PAUSE = 3.0  # seconds before the deadline from which on no try is worth while
MALFORMED, CUT, TWICE = 0.10, 0.05, 0.02
# "out of time": no answer before the deadline, for half of which at least the server was being restarted;
# "alone": a drafting device gave its own words, and said so.
KINDS = ("good", "drafted", "alone", "out of time", "malformed", "cut", "twice")


@dataclass(frozen=True)
class Load:
    """How many ask for how long, and what share of the requests is broken in which way.

    Each client asks its next question when it has the answer to the last one, after up to `pause` seconds,
    until `seconds` are over or so many `requests` were answered. The server is killed and started anew
    `restarts` times. Good questions go through a proxy that breaks a share `faults` of what is sent; the
    first `drafting` clients draft. `deadline` is of answers, in seconds, for clients; the server has a minute
    more.
    """

    clients: int = 64
    seconds: float = 300.0
    pause: float = 0.0
    malformed: float = MALFORMED
    cut: float = CUT
    twice: float = TWICE
    restarts: int = 0
    faults: float = 0.0
    drafting: int = 0
    requests: int | None = None
    deadline: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clients < 1 or not self.seconds > 0:
            raise UserError(
                f"{self.clients} clients for {self.seconds} s; give at least 1, for a time above 0"
            )


@dataclass
class Outcome:
    """What was seen; `wrong`, `lost` and `odd` must be empty."""

    counts: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # an answer that is not the edge's
    lost: list[str] = field(default_factory=list)  # no answer to a good request, in spite of time left
    late: list[str] = field(default_factory=list)  # more than a second after the deadline
    ended: list[str] = field(default_factory=list)  # how those that were out of time ended
    odd: list[str] = field(default_factory=list)  # a bad request that was not refused as such
    resident: list[tuple[float, int]] = field(default_factory=list)  # seconds, bytes
    metrics: dict[str, float] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    computed: Counter[int] = field(default_factory=Counter)  # keys by how often one server computed them
    away: list[tuple[float, float]] = field(default_factory=list)  # from a kill until ready again, seconds
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, **lists: str) -> None:
        """Counts a request, and files what is wrong with it."""
        with self.lock:
            self.counts[kind] += 1
            for name, text in lists.items():
                getattr(self, name).append(text)

    def away_since(self, begin: float) -> float:
        """Seconds since then in which there was no server."""
        now = time.monotonic()
        with self.lock:
            return sum(max(0.0, min(end, now) - max(start, begin)) for start, end in self.away)

    @property
    def growth(self) -> float:
        """Memory at the end over that after a fifth, in which caches fill; medians of a tenth each."""
        sizes = [size for _, size in self.resident]
        tenth = max(1, len(sizes) // 10)
        first = sizes[2 * tenth : 3 * tenth] or sizes
        return float(np.median(sizes[-tenth:]) / np.median(first)) if all(sizes) and sizes else 1.0

    def summary(self, load: Load) -> dict[str, Any]:
        """The figures."""
        times = np.array(self.latencies) if self.latencies else np.zeros(1)
        sizes = [round(size / 1e6, 1) for _, size in self.resident]
        return {
            "clients": load.clients,
            "seconds": load.seconds,
            "restarts": load.restarts,
            **{kind: self.counts[kind] for kind in KINDS},
            "wrong": len(self.wrong),
            "lost": len(self.lost),
            "late": len(self.late),
            "odd": len(self.odd),
            "faults": dict(self.faults),
            "away_seconds": [round(end - begin, 1) for begin, end in self.away],
            "computed": {str(times): keys for times, keys in sorted(self.computed.items())},
            "answers_per_second": round(len(self.latencies) / load.seconds, 2),
            "p50_ms": round(1e3 * float(np.quantile(times, 0.5)), 1),
            "p99_ms": round(1e3 * float(np.quantile(times, 0.99)), 1),
            "max_ms": round(1e3 * float(times.max()), 1),
            "resident_mb": sizes[:: max(1, len(sizes) // 10)],
            "memory_growth": round(self.growth, 4),
            "mean_batch": round(_mean_batch(self.metrics), 2),
        }


def soak(load: Load, folder: Path, asked: list[LoadQuestion] | None = None) -> Outcome:
    """Runs a server and its clients; `folder` keeps the server's log."""
    asked = questions(14) if asked is None else asked
    arguments = ("--deadline", str(load.deadline + 60))
    outcome = Outcome()
    server = start_server(folder, *arguments)
    holder = [server]
    try:
        until = time.monotonic() + load.seconds
        over = threading.Event()
        watch = threading.Thread(target=_watch, args=(holder, load, folder, arguments, over, outcome))
        watch.start()
        with (
            FaultyProxy(server.port, load.faults, load.seed) as proxy,
            ThreadPoolExecutor(load.clients) as pool,
        ):
            urls = proxy.url if load.faults else server.url, server.url
            clients = [_Client(number, load, urls, asked, outcome) for number in range(load.clients)]
            try:
                for done in [pool.submit(client.run, until) for client in clients]:
                    done.result()
            finally:
                over.set()
            outcome.faults = proxy.faults
        watch.join()
        outcome.metrics = holder[0].metrics
    finally:
        holder[0].process.terminate()
        holder[0].process.wait(60)
    outcome.computed = times_computed(server.log)
    return outcome


def times_computed(log: Path) -> Counter[int]:
    """Numbers of idempotency keys, by how often a server began to compute the answer to one."""
    begun: Counter[tuple[int, str]] = Counter()
    life = 0
    for text in log.read_text().splitlines():
        line = json.loads(text)
        life += line["event"] == "model ready"
        if line.get("computes") and "key" in line:
            begun[life, line["key"]] += 1
    return Counter(begun.values())


def _watch(
    holder: list[Server],
    load: Load,
    folder: Path,
    arguments: tuple[str, ...],
    over: threading.Event,
    outcome: Outcome,
) -> None:
    """Looks at the memory every second; kills the server as often as that is asked for."""
    begin = time.monotonic()
    killed = 0
    while not over.wait(min(1.0, load.seconds / 30)):
        done = (time.monotonic() - begin) / load.seconds
        if load.requests:
            done = max(done, (outcome.counts["good"] + outcome.counts["drafted"]) / load.requests)
        if killed < load.restarts and done > (killed + 1) / (load.restarts + 1):
            killed_at = time.monotonic()
            with outcome.lock:
                outcome.away.append((killed_at, math.inf))
            holder[0].process.kill()
            holder[0].process.wait()
            holder[0] = start_server(folder, *arguments, port=holder[0].port)
            killed += 1
            with outcome.lock:
                outcome.away[-1] = killed_at, time.monotonic()
            outcome.resident.clear()  # another process
        outcome.resident.append((time.monotonic() - begin, holder[0].resident_bytes))


class _Client:
    """One that asks, mostly well."""

    def __init__(
        self, number: int, load: Load, urls: tuple[str, str], asked: list[LoadQuestion], outcome: Outcome
    ) -> None:
        self._chance = random.Random(load.seed * 100_003 + number)
        self._load, self._asked, self._outcome = load, asked, outcome
        through, self._url = urls
        self._drafts = number < load.drafting
        model = "scenes-tiny"
        draft = family(model)[0].name if self._drafts else None
        self._edge = RemoteEdge(through, model, timeout=load.deadline, seed=number, draft=draft)
        self._http = httpx.Client(timeout=load.deadline + 60)

    def run(self, until: float) -> None:
        load, counts = self._load, self._outcome.counts
        with self._edge, self._http:
            while time.monotonic() < until:
                if load.requests and counts["good"] + counts["drafted"] >= load.requests:
                    return
                question = self._chance.choice(self._asked)
                kind = self._chance.random()
                if self._drafts:
                    self._good(question)
                elif kind < load.malformed:
                    self._survive(self._malformed, question)
                elif kind < load.malformed + load.cut:
                    self._survive(self._cut, question)
                elif kind < load.malformed + load.cut + load.twice:
                    self._survive(self._twice, question)
                else:
                    self._good(question)
                if load.pause:
                    time.sleep(self._chance.random() * load.pause)

    def _good(self, question: LoadQuestion) -> None:
        begin = time.monotonic()
        try:
            answer = self._edge.answer(question.packet, question.text)
        except (EdgeUnreachable, UserError) as error:
            spent = time.monotonic() - begin
            used_up = isinstance(error, EdgeUnreachable) and spent > self._load.deadline - _LAST_PAUSE
            away = self._outcome.away_since(begin)
            excused = used_up and away > self._load.deadline / 2
            fault = f"{spent:.1f} s, no server for {away:.1f} s of them: {error}"
            self._outcome.note("out of time", **{"ended" if excused else "lost": fault})
        else:
            spent = time.monotonic() - begin
            with self._outcome.lock:
                self._outcome.latencies.append(spent)
            if answer.fallback:
                self._outcome.note("alone")
            else:
                right = answer.text == question.expected
                fault = f"{question.text} {answer.text!r}, not {question.expected!r}"
                kind = "drafted" if self._drafts else "good"
                self._outcome.note(kind, **({} if right else {"wrong": fault}))
        if spent > self._load.deadline + 1:
            with self._outcome.lock:
                who = "drafting" if self._drafts else "asking"
                self._outcome.late.append(f"{spent:.1f} s, {who}: {question.text}")

    def _survive(self, send: Callable[[LoadQuestion], None], question: LoadQuestion) -> None:
        """Without retries of its own, what a killed server drops is dropped."""
        try:
            send(question)
        except httpx.TransportError as error:
            if not self._load.restarts:
                self._outcome.note("dropped", odd=f"{type(error).__name__}: {error}")

    def _body(self, question: LoadQuestion, **more: Any) -> dict[str, Any]:
        url = data_url("application/vnd.tofc", question.packet)
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question.text}]
        return {"model": "scenes-tiny", "messages": [{"role": "user", "content": content}], **more}

    def _malformed(self, question: LoadQuestion) -> None:
        whole = json.dumps(self._body(question)).encode()
        damaged = bytearray(question.packet)
        damaged[self._chance.randrange(len(damaged))] ^= 1 << self._chance.randrange(8)
        broken = LoadQuestion(bytes(damaged), question.text, "")
        content = self._chance.choice(
            [
                whole[: self._chance.randrange(len(whole))],
                json.dumps(self._body(broken)).encode(),
                json.dumps(self._body(question, max_tokens=10**6)).encode(),
                json.dumps(self._body(question, model="another")).encode(),
                json.dumps({"model": "scenes-tiny", "messages": []}).encode(),
                self._chance.randbytes(200),
            ]
        )
        headers = {"content-type": "application/json"}
        given = self._http.post(f"{self._url}{_CHAT}", content=content, headers=headers)
        if 400 <= given.status_code < 500 and "message" in given.json().get("error", {}):
            self._outcome.note("malformed")
        else:
            self._outcome.note("malformed", odd=f"{given.status_code} to a malformed request")

    def _cut(self, question: LoadQuestion) -> None:
        """Sends a part of the request, or all of it, and leaves."""
        whole = json.dumps(self._body(question)).encode()
        head = f"POST {_CHAT} HTTP/1.1\r\nHost: edge\r\nContent-Type: application/json\r\n"
        data = f"{head}Content-Length: {len(whole)}\r\n\r\n".encode() + whole
        part = data if self._chance.random() < 0.5 else data[: self._chance.randrange(1, len(data))]
        host, port = self._url.removeprefix("http://").split(":")
        try:
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                connection.sendall(part)
                time.sleep(self._chance.random() * 0.05)
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        self._outcome.note("cut")

    def _twice(self, question: LoadQuestion) -> None:
        """The same request at the same time over two connections: one answer, given twice."""
        headers = {"idempotency-key": f"{self._chance.getrandbits(96):x}"}
        body = self._body(question)

        def post(_: int) -> httpx.Response:
            return self._http.post(f"{self._url}{_CHAT}", json=body, headers=headers)

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(post, range(2))
        if first.status_code != 200 or second.status_code != 200:
            fault = (
                {} if self._load.restarts else {"lost": f"twice: {first.status_code}, {second.status_code}"}
            )
            self._outcome.note("twice", **fault)
        elif first.json() != second.json():
            self._outcome.note("twice", wrong="two answers to one request")
        elif first.json()["choices"][0]["message"]["content"] != question.expected:
            self._outcome.note("twice", wrong=f"twice: {question.text}")
        else:
            self._outcome.note("twice")


def _mean_batch(metrics: dict[str, float]) -> float:
    return metrics.get("tofc_batch_rows_sum", 0.0) / max(1.0, metrics.get("tofc_batch_rows_count", 0.0))
