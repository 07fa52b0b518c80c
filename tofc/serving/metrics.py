"""Counters for Prometheus; `docs/operations.md` says what to watch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tofc.serving.logs import dropped_lines

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_SIZES = (100, 200, 300, 500, 700, 1000, 2000, 5000, 20_000, 100_000)


class Metrics:
    """All that one server counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry}
        self.requests = Counter("tofc_requests", "Requests that ended", ["route", "status"], **own)
        self.seconds = Histogram(
            "tofc_request_seconds", "From a request to its whole answer", ["route"], buckets=_SECONDS, **own
        )
        self.first_token = Histogram(
            "tofc_first_token_seconds", "From a request to the first token", buckets=_SECONDS, **own
        )
        self.queue_seconds = Histogram("tofc_queue_seconds", "Waiting for the model", buckets=_SECONDS, **own)
        self.batch = Histogram(
            "tofc_batch_rows", "Sequences decoded together", buckets=(1, 2, 4, 8, 16, 32, 64), **own
        )
        self.packet_bytes = Histogram(
            "tofc_packet_bytes", "Bytes of the packets of a request", buckets=_SIZES, **own
        )
        self.queued = Gauge("tofc_queued", "Requests that wait for the model", **own)
        self.decoding = Gauge("tofc_decoding", "Sequences in the model", **own)
        self.connections = Gauge("tofc_under_way", "Requests under way", **own)
        self.prompt_tokens = Counter("tofc_prompt_tokens", "Positions prefilled, visual ones included", **own)
        self.visual_tokens = Counter("tofc_visual_tokens", "Visual tokens prefilled", **own)
        self.new_tokens = Counter("tofc_generated_tokens", "Tokens generated", **own)
        self.drafted = Gauge("tofc_drafted_answers", "Answers that devices draft, at the moment", **own)
        self.rounds = Counter("tofc_rounds", "Rounds of drafts that were answered", **own)
        self.drafts = Counter("tofc_drafts", "Drafts that came in these rounds", **own)
        self.refused = Counter("tofc_refused", "Requests refused or given up", ["reason"], **own)
        self.repeated = Counter("tofc_repeated", "Requests that an idempotency key found answered", **own)
        dropped = Gauge("tofc_log_lines_dropped", "Lines of the log that nobody read in time", **own)
        dropped.set_function(dropped_lines)

    def text(self) -> bytes:
        """What /metrics shows."""
        return generate_latest(self.registry)


def side_by_side(pages: Mapping[str, bytes], label: str) -> bytes:
    """One page of several: every series has the name of its page as a `label` of its own."""
    return generate_latest(_Pages(pages, label))


class _Pages:
    def __init__(self, pages: Mapping[str, bytes], label: str) -> None:
        self._pages, self._label = pages, label

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for name, page in self._pages.items():
            for family in text_string_to_metric_families(page.decode()):
                whole = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                whole.samples += [s._replace(labels={self._label: name, **s.labels}) for s in family.samples]
        yield from families.values()
