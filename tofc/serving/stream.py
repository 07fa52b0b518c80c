"""An answer that is sent while it grows: server-sent events in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from tofc.serving.errors import ApiError
from tofc.serving.job import Completion, Job


def usage(result: Completion) -> dict[str, int]:
    """Tokens, as OpenAI counts them."""
    new = len(result.tokens)
    return {
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": new,
        "total_tokens": result.prompt_tokens + new,
    }


def extras(result: Completion) -> dict[str, Any]:
    """What this server tells beyond that."""
    return {
        "exit": result.exit,
        "tokens": list(result.tokens),
        "confidence": round(result.confidence, 6),
        "visual_tokens": result.visual_tokens,
        "timing": {stage: round(seconds, 6) for stage, seconds in result.timing.items()},
    }


async def events(job: Job, deltas: AsyncIterator[str]) -> AsyncIterator[bytes]:
    """The events of a job whose text comes from `deltas`; an error on the way is an event too."""
    head = {
        "id": f"chatcmpl-{job.request_id}",
        "object": "chat.completion.chunk",
        "created": job.created,
        "model": job.asked.model,
    }

    def chunk(delta: dict[str, str], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**head, "choices": [choice], **more})

    yield chunk({"role": "assistant", "content": ""})
    try:
        async for delta in deltas:
            yield chunk({"content": delta})
        result = await job.whole()
    except ApiError as error:
        yield _event(error.body)
        return
    yield chunk({}, result.finish_reason, tofc=extras(result))
    if job.asked.include_usage:
        yield _event({**head, "choices": [], "usage": usage(result)})
    yield b"data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
