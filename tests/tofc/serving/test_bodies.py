"""What is refused in a body, by name, and before it is unfolded; what is accepted of OpenAI's fields."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from eval.serving.process import Server
from tests.tofc.serving.asking import message, url_of
from tofc.serving.errors import ApiError
from tofc.serving.requests import check_type, parsed
from tofc.serving.schema import ChatRequest
from tofc.serving.settings import Limits

TEXT = {"type": "text", "text": "Q?"}


def body(content: Any = "Q?", **more: Any) -> dict[str, Any]:
    return {"model": "default", "messages": [{"role": "user", "content": content}], **more}


def read(content: Any) -> ChatRequest:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parsed(ChatRequest, data, Limits())


# For each field of OpenAI's that may change an answer and is not understood: a value that would.
REFUSED: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "mp3"},
    "frequency_penalty": 0.5,
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "modalities": ["text", "audio"],
    "moderation": {},
    "n": 2,
    "presence_penalty": 0.5,
    "reasoning_effort": "high",
    "response_format": {"type": "json_object"},
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "top_logprobs": 3,
    "verbosity": "low",
    "web_search_options": {},
}
UNDERSTOOD = {
    "max_completion_tokens", "max_tokens", "messages", "model", "seed", "stop", "stream_options",
    "temperature", "top_p",
}  # fmt: skip
HARMLESS = {
    "metadata", "parallel_tool_calls", "prediction", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "safety_identifier", "service_tier", "store", "user",
}  # fmt: skip


def test_every_field_of_openais_is_understood_harmless_or_refused() -> None:
    """A release with more fields has somebody decide about them; until then they are refused."""
    theirs = set(CompletionCreateParamsBase.__annotations__)
    assert theirs <= UNDERSTOOD | HARMLESS | REFUSED.keys()
    assert ChatRequest.model_fields.keys() >= UNDERSTOOD | HARMLESS


@pytest.mark.parametrize("field", [*REFUSED, "repetition_penalty", "top_k", "a_field_of_tomorrow"])
def test_what_might_change_an_answer_is_refused_by_name(field: str) -> None:
    with pytest.raises(ApiError, match=f"^{field}") as refused:
        read(body(**{field: REFUSED.get(field, 1.5)}))
    assert refused.value.status == 400
    assert refused.value.param.startswith(field)
    read(body(**{field: None}))  # null is absent


def test_harmless_fields_pass() -> None:
    read(body(**dict.fromkeys(HARMLESS - {"user"}, "x"), user="u", tools=[], modalities=["text"]))


@pytest.mark.parametrize(
    "content, place, says",
    [
        ([{"type": "image_url", "image_url": "data:x"}], "0.image_url", "give an object"),
        ([TEXT, {"type": "video_url", "video_url": {"url": "x"}}], "1", "of type text or image_url"),
        ([{"type": "refusal", "refusal": "no"}], "0", "of type text or image_url"),
        ([{"type": "image_url", "image_url": {"url": "x", "detail": "best"}}], "0.image_url.detail", "auto"),
        ([{"type": "image_url", "image_url": {"detail": "low"}}], "0.image_url.url", "required"),
        ([{"type": "text"}], "0.text", "required"),
        (["Q?"], "0", "a part is an object"),
        (7, None, "array"),
    ],
)
def test_the_part_and_its_field_are_named(content: Any, place: str | None, says: str) -> None:
    where = "messages.0.content" + ("" if place is None else f".{place}")
    with pytest.raises(ApiError) as refused:
        read(body(content))
    assert refused.value.param == where
    assert says in refused.value.message


def test_null_is_absent() -> None:
    url = {"url": "data:,x", "detail": None}
    found = read(body([{"type": "image_url", "image_url": url}, {**TEXT, "cache_control": None}], n=None))
    assert found.messages[0].content[0].image_url.detail == "auto"


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(body([{"type": "odd"}] * 250_000)).encode(),
        b"[" * 4_000_000,
        b'{"a":' * 1_000_000,
        json.dumps(body("Q?", metadata=[[]] * 100_000)).encode(),
    ],
    ids=["parts", "lists", "objects", "values"],
)
def test_what_unfolds_is_refused_before_it_does(data: bytes) -> None:
    with pytest.raises(ApiError, match="more values than any question needs"):
        read(data)


@pytest.mark.parametrize("data", [b"[" * 5000, b"9" * 6000, b"\xff", b"", b'{"model": 1e999}'])
def test_what_is_no_json_is_the_clients_fault(data: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        read(data)
    assert refused.value.status == 400


def test_the_missing_header_is_named() -> None:
    for kind in ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        with pytest.raises(ApiError, match="content-type: application/json") as refused:
            check_type(kind)
        assert refused.value.status == 415
    for kind in ("application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"):
        check_type(kind)


def test_urls_of_every_legal_spelling_are_answered(server: Server, edge, asked, scenes) -> None:
    packet, question = asked[0]
    file = io.BytesIO()
    scenes[0][0].save(file, "PNG")
    kinds = {
        url_of(packet).replace("data:", "DATA:").replace(";base64", ";name=a.tofc;BASE64"): packet,
        url_of(packet, ""): packet,
        url_of(packet).replace("+", "%2B").replace("/", "%2f").replace("%2fvnd", "/vnd"): packet,
        url_of(file.getvalue(), ""): file.getvalue(),
    }
    expected = {
        packet: edge.answer(packet, question),
        file.getvalue(): edge.answer_image(file.getvalue(), question),
    }
    for url, data in kinds.items():
        content = {"model": "default", "messages": message(question, url)}
        given = httpx.post(f"{server.url}/v1/chat/completions", json=content, timeout=60).json()
        assert given["choices"][0]["message"]["content"] == expected[data].text


def test_head_is_answered_as_get(server: Server) -> None:
    for path in ("/health", "/ready", "/v1/models"):
        given = httpx.head(f"{server.url}{path}")
        assert given.status_code == 200
        assert given.content == b""
    assert httpx.head(f"{server.url}/v1/chat/completions").status_code == 405


def test_a_body_that_is_not_declared_as_json_is_not_read(server: Server) -> None:
    given = httpx.post(f"{server.url}/v1/chat/completions", content=json.dumps(body()), timeout=60)
    assert given.status_code == 415
    assert "content-type" in given.json()["error"]["message"]
