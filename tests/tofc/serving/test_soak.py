"""Load with broken clients, and everything that the server's own document allows."""

from __future__ import annotations

from collections import Counter

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from eval.serving.process import LoadQuestion, Server
from eval.serving.soak import Load, Outcome, soak
from tofc.errors import UserError


@pytest.fixture(scope="module")
def outcome(edge, asked, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Fifteen seconds of many clients, one of which drafts, through a proxy that breaks connections; in the
    middle the server is killed and started anew."""
    answers = edge.answer_many(asked)
    known = [LoadQuestion(*pair, answer.text) for pair, answer in zip(asked, answers, strict=True)]
    broken = {"malformed": 0.2, "cut": 0.1, "twice": 0.05}
    load = Load(clients=12, seconds=15, **broken, restarts=1, faults=0.05, drafting=1, deadline=60)
    return soak(load, tmp_path_factory.mktemp("soak"), known)


def test_every_good_request_gets_its_own_answer(outcome: Outcome) -> None:
    assert not outcome.wrong
    assert not outcome.lost
    assert not outcome.odd
    assert outcome.counts["good"] > 0
    assert outcome.counts["drafted"] + outcome.counts["alone"] > 0
    assert outcome.counts["malformed"]
    assert sum(outcome.faults.values()) > 0
    assert outcome.computed[1] > 0


def test_figures_tell_what_was_seen() -> None:
    seen = Outcome(counts=Counter(good=3), latencies=[0.1, 0.2, 4.0])
    seen.resident = [
        (float(i), size) for i, size in enumerate([50, 90, 100, 100, 100, 100, 100, 100, 100, 108])
    ]
    figures = seen.summary(Load(seconds=10))
    assert figures["p50_ms"] == 200
    assert figures["max_ms"] == 4000
    assert figures["memory_growth"] == 1.08
    assert figures["answers_per_second"] == 0.3


def test_loads_that_cannot_be() -> None:
    with pytest.raises(UserError, match="0 clients"):
        Load(clients=0)


# What the document allows, and what it does not.


@pytest.fixture(scope="module")
def schema(server: Server) -> schemathesis.schemas.BaseSchema:
    load_all_checks()
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


# What is against the document may still be answered: fields that nobody here knows pass, as OpenAI's clients
# expect. And the document cannot say that a model is not here, or that a question needs text.
LEFT_OUT = ("negative_data_rejection", "positive_data_acceptance")


CASES = [
    ("/v1/chat/completions", GenerationMode.POSITIVE),
    ("/v1/chat/completions", GenerationMode.NEGATIVE),
    ("/v1/models/{name}", GenerationMode.POSITIVE),
    ("/v1/models", GenerationMode.POSITIVE),
    ("/v1/probe", GenerationMode.POSITIVE),
    ("/health", GenerationMode.POSITIVE),
    ("/ready", GenerationMode.POSITIVE),
    ("/metrics", GenerationMode.POSITIVE),
]


@pytest.mark.parametrize("path, mode", CASES)
def test_nothing_that_is_sent_breaks_the_server(
    schema, server: Server, path: str, mode: GenerationMode
) -> None:
    """Requests within the document and against it: none ends in 5xx, and answers are as documented."""
    (method,) = schema[path]
    operation = schema[path][method]
    checks = [check for check in CHECKS.get_all() if check.__name__ not in LEFT_OUT]
    statuses = Counter()

    @settings(max_examples=30, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        response = case.call()
        statuses[response.status_code] += 1
        assert response.status_code < 500
        case.validate_response(response, checks=checks)

    send()
    assert statuses
    assert httpx.get(f"{server.url}/ready").status_code == 200


def test_the_document_names_what_there_is(server: Server) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    assert set(document["paths"]) == {path for path, _ in CASES}  # all of it is tried
    errors = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert {"200", "400", "401", "408", "413", "429", "503"} <= set(errors)
    assert errors["429"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")
