"""Coverage-guided fuzzing of what clients send a server, as `fuzz_packet.py` does it with packets:

    python tests/fuzz/fuzz_requests.py -runs=200000 FOLDER

An input's first byte says what the rest is: the body of a question, the question that opens an answer which a
device drafts, a data URL, a round of drafts, or a verdict. Nothing but the error that is promised may come
out, and what is accepted says the same when it is written and read again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

if __name__ == "__main__":
    import atheris  # before what it instruments

    sys.path.insert(0, str(Path(__file__).parents[2]))
    INSTRUMENTED = (
        "serving.requests",
        "serving.schema",
        "network.messages",
        "drafting.rounds",
    )
    with atheris.instrument_imports(include=[f"tofc.{name}" for name in INSTRUMENTED]):
        import tofc.drafting.rounds
        import tofc.serving.requests  # noqa: F401  what is imported below is then instrumented

from tofc.drafting.rounds import MessageError, Round, Verdict
from tofc.network.messages import chat_request, data_url, read_data_url
from tofc.packet import Packet
from tofc.serving.errors import ApiError
from tofc.serving.models import ServedModels
from tofc.serving.requests import parsed, understand
from tofc.serving.schema import ChatRequest
from tofc.serving.settings import Limits
from tofc.serving.verification import OpenRequest

LIMITS = Limits(pixels=10_000)
KINDS = ("question", "opening", "url", "round", "verdict")

_PIXEL = bytes.fromhex("47494638376101000100800000000000ffffff2c00000000010001000002024401003b")  # a GIF


class _Models:
    """As much of a server's models as a question is checked against."""

    members = ("tiny",)

    def resolve(self, asked: str) -> str | None:
        return "tiny" if asked in ("tiny", "default") else None

    def layouts(self, seen: Any, several: bool) -> list[Any]:
        return [SimpleNamespace(num_tiles=1, num_tokens=4)]


def fuzz_one(data: bytes) -> None:
    """One input of the fuzzer."""
    check(data)


def check(data: bytes) -> bool:
    """Whether an input is accepted; raises AssertionError, or anything, where our code is wrong."""
    kind, data = KINDS[data[0] % len(KINDS)] if data else KINDS[0], data[1:]
    if kind == "url":
        return _check_url(data.decode("utf-8", "replace"))
    try:
        if kind == "question":
            return _check_question(parsed(ChatRequest, data, LIMITS), ChatRequest)
        if kind == "opening":
            return _check_question(parsed(OpenRequest, data, LIMITS), OpenRequest)
        message: Round | Verdict = Round.from_bytes(data) if kind == "round" else Verdict.from_bytes(data)
    except ApiError as error:
        if error.status not in (400, 404):
            raise
        return False
    except MessageError:
        return False
    assert type(message).from_bytes(bytes(message)) == message
    return True


def _check_question(body: Any, kind: type[ChatRequest]) -> bool:
    again = parsed(kind, body.model_dump_json(), LIMITS)
    assert again == body
    asked = understand(body, cast(ServedModels, _Models()), LIMITS)
    assert asked.max_new_tokens <= LIMITS.new_tokens
    assert asked.deadline <= LIMITS.longest
    assert len(asked.turns) == len(body.messages)
    return True


def _check_url(url: str) -> bool:
    try:
        found = read_data_url(url)
    except ValueError:
        return False
    if found is None:
        return False
    kind, data = found
    assert read_data_url(data_url(kind, data)) == found
    return True


def found() -> list[bytes]:
    """A packet whose checksum is right, and whose payload is none."""
    url = data_url("application/vnd.tofc", bytes(Packet(b"\x01", ((480, 640),), b"tag")))
    return [b"\x00" + json.dumps(chat_request("default", url, "Q?", {})).encode()]


def seeds() -> list[bytes]:
    """Inputs of every kind that are accepted."""
    golden = json.loads((Path(__file__).parents[1] / "entropy" / "golden" / "payloads.json").read_text())
    payload = bytes.fromhex(next(iter(golden["payloads"].values())))
    packet = Packet(payload, ((480, 640),), b"tag")
    urls = [data_url("application/vnd.tofc", bytes(packet)), data_url("image/gif", _PIXEL)]
    urls += ["data:;name=a.gif;base64," + urls[1].partition(",")[2], "DATA:,a%20b"]
    urls += ["data:text/plain;charset=utf-8;BASE64,QU%4A D"]
    settings = {"max_new_tokens": 3, "temperature": 0.5, "top_p": 0.9, "seed": -1}
    bodies = [chat_request("default", url, "Q?", settings) for url in urls[:3]]
    bodies[0] |= {"stop": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}, "n": 1}
    bodies[1] |= {"user": "u", "tools": [], "response_format": {"type": "text"}, "deadline_ms": 5.5}
    bodies[2]["messages"].insert(0, {"role": "system", "content": "Be brief."})
    drafted = {"draft": "e1", "draft_parameters": 1, "vocabulary": "v", "tokens": [1, 2], "top_k": 3}
    made: dict[str, list[bytes]] = {
        "question": [json.dumps(body).encode() for body in bodies],
        "opening": [json.dumps(body | drafted).encode() for body in bodies],
        "url": [url.encode() for url in urls],
        "round": [
            bytes(Round(0, 0, 0)),
            bytes(Round(3, 0xDEADBEEF, 2, (5, 700, 1 << 40), 4)),
            bytes(Round(1, 7, 1, (9, 9), 1, 0, b"states")),
        ],
        "verdict": [bytes(Verdict(0, (), 0, False)), bytes(Verdict(2, (1, 300), 4, True, 1, 0.25, 0.125))],
    }
    return [bytes([KINDS.index(kind)]) + data for kind, inputs in made.items() for data in inputs]


if __name__ == "__main__":
    for number, seed in enumerate(seeds()):
        Path(sys.argv[-1], f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, fuzz_one)
    atheris.Fuzz()
