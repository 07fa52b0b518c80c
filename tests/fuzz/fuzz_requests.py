"""Coverage-guided fuzzing of what clients send a server, as `fuzz_packet.py` does it with packets:

    python tests/fuzz/fuzz_requests.py -runs=200000 FOLDER

An input's first byte says what the rest is: the body of a question, or a data URL. Nothing but the error that
is promised may come out, and what is accepted says the same when it is written and read again. What devices
that draft send is in `fuzz_drafts.py`.
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
    INSTRUMENTED = ("serving.requests", "serving.schema", "network.messages")
    with atheris.instrument_imports(include=[f"tofc.{name}" for name in INSTRUMENTED]):
        import tofc.serving.requests  # noqa: F401  what is imported below is then instrumented

from tofc.network.messages import chat_request, data_url, read_data_url
from tofc.packet import Packet
from tofc.serving.errors import ApiError
from tofc.serving.models import ServedModels
from tofc.serving.requests import parsed, understand
from tofc.serving.schema import ChatRequest
from tofc.serving.settings import Limits

LIMITS = Limits(pixels=10_000)
KINDS = ("question", "url")

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
    return check_question(data, ChatRequest)


def check_question(data: bytes, kind: type[ChatRequest]) -> bool:
    """The same for the body of a question of this kind."""
    try:
        body = parsed(kind, data, LIMITS)
        again = parsed(kind, body.model_dump_json(), LIMITS)
        assert again == body
        asked = understand(body, cast(ServedModels, _Models()), LIMITS)
    except ApiError as error:
        if error.status not in (400, 404):
            raise
        return False
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


def urls() -> list[str]:
    """Data URLs that are accepted, the first one of a packet."""
    golden = json.loads((Path(__file__).parents[1] / "entropy" / "golden" / "payloads.json").read_text())
    payload = bytes.fromhex(next(iter(golden["payloads"].values())))
    packet = Packet(payload, ((480, 640),), b"tag")
    made = [data_url("application/vnd.tofc", bytes(packet)), data_url("image/gif", _PIXEL)]
    made += ["data:;name=a.gif;base64," + made[1].partition(",")[2], "DATA:,a%20b"]
    return [*made, "data:text/plain;charset=utf-8;BASE64,QU%4A D"]


def bodies() -> list[dict[str, Any]]:
    """Questions that are accepted."""
    settings = {"max_new_tokens": 3, "temperature": 0.5, "top_p": 0.9, "seed": -1}
    made = [chat_request("default", url, "Q?", settings) for url in urls()[:3]]
    made[0] |= {"stop": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}, "n": 1}
    made[1] |= {"user": "u", "tools": [], "response_format": {"type": "text"}, "deadline_ms": 5.5}
    made[2]["messages"].insert(0, {"role": "system", "content": "Be brief."})
    return made


def seeds() -> list[bytes]:
    """Inputs of both kinds that are accepted."""
    return [
        *(b"\0" + json.dumps(body).encode() for body in bodies()),
        *(b"\1" + url.encode() for url in urls()),
    ]


if __name__ == "__main__":
    for number, seed in enumerate(seeds()):
        Path(sys.argv[-1], f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, fuzz_one)
    atheris.Fuzz()
