"""One thread that owns the model: it takes requests from a bounded queue and decodes them together."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tofc.errors import UserError
from tofc.language.batch import Batch, Generation
from tofc.language.prompt import TextStream, answer_text
from tofc.serving.errors import ApiError, not_now, our_fault, too_busy, too_late, wrong
from tofc.serving.job import Completion, Job
from tofc.serving.models import Prepared, ServedModels
from tofc.serving.settings import Limits
from tofc.serving.telemetry import Metrics, log

# New requests join between two tokens of running ones until this many positions are prefilled (the last may
# exceed it): that bounds how long a running stream waits.
_ADMITTED_POSITIONS = 256
# Joining costs a pass of its own: a batch that is nearly full takes nothing more for so many tokens.
_TOKENS_BETWEEN = 4


@dataclass(eq=False)
class _Sequence:
    """A job in the model, with the row that is decoded for it."""

    job: Job
    row: Generation
    prepared: Prepared
    text: TextStream
    admitted: float
    seen: int = 0  # tokens of the row that the text has


class Engine:
    """Answers jobs, up to `limits.batch` at a time, each with the member of the family it names.

    `submit` may be called on the event loop whose jobs they are; everything else happens on the thread.
    """

    def __init__(self, models: ServedModels, limits: Limits, metrics: Metrics) -> None:
        self._models, self._limits, self._metrics = models, limits, metrics
        self._capacity = limits.batch
        self._queue: deque[tuple[Job, asyncio.AbstractEventLoop]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._batches = {name: self._new_batch(name) for name in models.members}
        self._running: dict[str, list[_Sequence]] = {name: [] for name in models.members}
        self._loops: dict[Job, asyncio.AbstractEventLoop] = {}
        self._tokens_since = 0  # passes since sequences last joined
        self._seconds_each = 0.05  # moving average, for Retry-After
        self._last_end = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="tofc-model", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive() and not self._closing

    def submit(self, job: Job) -> None:
        """Queues a job; raises ApiError 429 where the queue is full, 503 where none are taken."""
        with self._wake:
            if not self.is_ready:
                raise not_now("the server is going down or not up yet; try again in a moment")
            if len(self._queue) >= self._limits.queue:
                wait = min(self._limits.deadline, len(self._queue) * self._seconds_each)
                raise too_busy(f"{len(self._queue)} requests are waiting already; try again later", wait)
            self._queue.append((job, asyncio.get_running_loop()))
            self._metrics.queued.set(len(self._queue))
            self._wake.notify()

    def close(self, seconds: float = 30.0) -> None:
        """Answers what is there, takes nothing more, and ends the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._queue or self._num_running or self._closing)
                if self._closing and not self._queue and not self._num_running:
                    return
            for name, group in self._admitted().items():
                self._guarded(name, lambda n=name, g=group: self._join(n, g))  # type: ignore[misc]
            for name, batch in self._batches.items():
                if batch.rows:
                    self._guarded(name, batch.step)
            self._metrics.decoding.set(self._num_running)

    @property
    def _num_running(self) -> int:
        return sum(map(len, self._running.values()))

    def _guarded(self, name: str, work: Callable[[], None]) -> None:
        """Runs a pass of one model and hands out what it gave; after a fault each job is tried by itself."""
        try:
            work()
        except Exception as error:
            log("the model failed", logging.ERROR, error, model=name)
            self._batches[name] = self._new_batch(name)
            self._running[name] = [one for one in self._running[name] if self._goes_on(name, one)]
        self._metrics.batch.observe(len(self._running[name]))
        self._hand_out(name)

    def _goes_on(self, name: str, sequence: _Sequence) -> bool:
        """Whether a job that was in a pass that failed can be computed alone; it is told where it cannot."""
        if sequence.row.finish_reason is not None:
            return True
        try:
            self._batches[name].resume(sequence.row)
        except Exception as error:
            self._fail(sequence.job, error)
            return False
        return True

    def _new_batch(self, name: str) -> Batch:
        return self._models.batch(name, self._limits.kept_positions)

    def _admitted(self) -> dict[str, list[_Sequence]]:
        """The jobs that join before the next token, by the model that they name."""
        groups: dict[str, list[_Sequence]] = {name: [] for name in self._batches}
        num_free, positions = self._capacity - self._num_running, 0
        self._tokens_since += 1
        if 4 * num_free < self._capacity and self._tokens_since < _TOKENS_BETWEEN:
            return {}
        self._tokens_since = 0
        while num_free and positions < _ADMITTED_POSITIONS:
            with self._wake:
                if not self._queue:
                    break
                job, self._loops[job] = self._queue.popleft()
                self._metrics.queued.set(len(self._queue))
            sequence = self._prepared(job)
            if sequence is not None:
                groups[job.asked.model].append(sequence)
                positions += self._batches[job.asked.model].positions(sequence.row)
                num_free -= 1
        return {name: group for name, group in groups.items() if group}

    def _prepared(self, job: Job) -> _Sequence | None:
        """A job decoded and rendered; where it cannot be, it is told so."""
        now = time.monotonic()
        self._metrics.queue_seconds.observe(now - job.began)
        if (over := self._is_over(job, now)) is not None:
            self._end(job, over)
            return None
        asked = job.asked
        try:
            prepared = self._models.prepare(asked.turns, asked.seen, asked.max_new_tokens)
        except ApiError as error:
            self._end(job, error)
        except UserError as error:
            self._end(job, wrong(str(error), "messages", "invalid_packet"))
        except Exception as error:
            self._fail(job, error)
        else:
            text = TextStream(self._models.edge.tokenizer, asked.stop)
            row = Generation(prepared.prompt, asked.max_new_tokens, asked.sampling, prepared.prefix_key)
            return _Sequence(job, row, prepared, text, now)
        return None

    def _join(self, name: str, sequences: list[_Sequence]) -> None:
        self._running[name] += sequences
        self._batches[name].join([sequence.row for sequence in sequences])
        for sequence in sequences:
            self._metrics.first_token.observe(time.monotonic() - sequence.job.began)
            self._metrics.prompt_tokens.inc(sequence.row.prompt.length)
            self._metrics.visual_tokens.inc(sequence.prepared.visual_tokens)

    def _hand_out(self, name: str) -> None:
        """New text to those who stream, whole answers to all; what nobody waits for leaves the batch."""
        now = time.monotonic()
        staying = []
        for sequence in self._running[name]:
            try:
                if self._told(name, sequence, now):
                    staying.append(sequence)
            except Exception as error:
                sequence.row.leave("failed")
                self._fail(sequence.job, error)
        self._running[name] = staying

    def _told(self, name: str, sequence: _Sequence, now: float) -> bool:
        """Hands out what one sequence has; whether more will come."""
        job, row = sequence.job, sequence.row
        if row.fault is not None:
            raise row.fault
        if row.finish_reason is None and (over := self._is_over(job, now)) is not None:
            row.leave("cancelled")
            self._end(job, over)
            return False
        self._add_text(sequence)
        if row.finish_reason is None:
            return True
        self._finish(name, sequence, now)
        return False

    def _add_text(self, sequence: _Sequence) -> None:
        row, asked = sequence.row, sequence.job.asked
        if not asked.stream and not asked.stop:
            return
        fresh = row.tokens[sequence.seen :]
        sequence.seen += len(fresh)
        delta = "".join(sequence.text.push(token) for token in fresh)
        if sequence.text.is_stopped:
            row.finish_reason = "stop"
        if row.finish_reason is not None:
            delta += sequence.text.close()
        if delta and asked.stream:
            self._call(sequence.job, lambda: sequence.job.push(delta))

    def _finish(self, name: str, sequence: _Sequence, now: float) -> None:
        job, row, prepared = sequence.job, sequence.row, sequence.prepared
        is_known = job.asked.stream or job.asked.stop
        text = sequence.text.text if is_known else answer_text(self._models.edge.tokenizer, row.tokens)
        timing = {
            "queue": sequence.admitted - job.began,
            **prepared.timing,
            "generate": now - sequence.admitted - sum(prepared.timing.values()),
            "server": now - job.began,
        }
        result = Completion(
            text=text,
            tokens=tuple(row.tokens),
            finish_reason=row.finish_reason or "stop",
            exit=self._models.members[name].name,
            confidence=row.confidence,
            prompt_tokens=row.prompt.length,
            visual_tokens=prepared.visual_tokens,
            timing=timing,
        )
        self._metrics.new_tokens.inc(len(row.tokens))
        between = min(now - self._last_end, now - sequence.admitted)
        self._seconds_each, self._last_end = 0.9 * self._seconds_each + 0.1 * between, now
        self._call(job, lambda: job.finish(result))
        self._loops.pop(job, None)

    def _is_over(self, job: Job, now: float) -> ApiError | None:
        if job.is_cancelled:
            self._metrics.refused.labels("client left").inc()
            return ApiError(499, "the client left", "client_left")
        if now > job.due:
            self._metrics.refused.labels("deadline").inc()
            return too_late(job.asked.deadline)
        return None

    def _fail(self, job: Job, error: Exception) -> None:
        log("a request failed", logging.ERROR, error, request_id=job.request_id)
        self._end(job, our_fault())

    def _end(self, job: Job, error: ApiError) -> None:
        self._call(job, lambda: job.fail(error))
        self._loops.pop(job, None)

    def _call(self, job: Job, call: Callable[[], None]) -> None:
        """On the job's event loop; where that is gone, nobody waits."""
        loop = self._loops.get(job)
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(call)
